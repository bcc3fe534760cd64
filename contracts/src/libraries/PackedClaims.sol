// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IChannels} from "../interfaces/IChannels.sol";
import {channelAt} from "../types/ChannelSlot.sol";
import {Digests} from "./Digests.sol";

/// @title Claims of one payee, one token and one delay, without the padding and repetition of the plain ABI.
/// @dev header, 65 bytes:  token 20 | payee 20 | payeeAuthorizer 20 | withdrawDelay 5
///      entry, 125 bytes:  payer 20 | payerAuthorizer 20 | salt 8 | amount 13 | r 32 | vs 32 (EIP-2098)
/// Integers are big endian; one or more entries follow the header and nothing follows them.
library PackedClaims {
    uint256 internal constant HEADER_LENGTH = 65;
    uint256 internal constant ENTRY_LENGTH = 125;
    /// Bytes of the `ClaimedBatch` log for each credited entry: id 32 | new cumulative amount 13.
    uint256 internal constant LOG_ENTRY_LENGTH = 45;

    /// Half the order of secp256k1, rounded down: of the two forms of a signature, the one above it is refused.
    uint256 private constant S_MAX = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;
    uint256 private constant S_MASK = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF;
    uint256 private constant AMOUNT_MASK = 0xffffffffffffffffffffffffff;
    // Only the slots of closed channels are above this: Status.Closed is the highest, and in the highest place.
    uint256 private constant BELOW_CLOSED = (3 << 248) - 1;

    // Scratch memory, at fixed places because adding an offset to a pointer costs three times as much. What all entries
    // share is written once. `claim` makes sure that nobody else uses this memory.
    uint256 private constant CONFIG = 0x80; // type hash, then the seven members of ChannelConfig
    uint256 private constant PAYER = 0xa0;
    uint256 private constant PAYER_AUTHORIZER = 0xc0;
    uint256 private constant PAYEE = 0xe0;
    uint256 private constant PAYEE_AUTHORIZER = 0x100;
    uint256 private constant TOKEN = 0x120;
    uint256 private constant WITHDRAW_DELAY = 0x140;
    uint256 private constant SALT = 0x160; // one spare word follows
    uint256 private constant VOUCHER = 0x1a0; // type hash, channel id, amount
    uint256 private constant VOUCHER_ID = 0x1c0;
    uint256 private constant VOUCHER_AMOUNT = 0x1e0;
    uint256 private constant DIGEST = 0x21e; // 0x1901 (the end of the word at 0x200), domain separator, struct hash
    uint256 private constant SEPARATOR = 0x220;
    uint256 private constant STRUCT_HASH = 0x240;
    uint256 private constant RECOVER = 0x260; // digest, v, r, s
    uint256 private constant ENTRY = 0x263; // an entry as it comes; its end, r and vs, is where ecrecover wants r and s
    uint256 private constant RECOVER_V = 0x280;
    uint256 private constant RECOVER_S = 0x2c0;
    // The event's data: an offset, a length and the entries.
    uint256 private constant LOG = 0x2e0;
    uint256 private constant LOG_ENTRIES = 0x320;

    /// Why a loop ended before its last entry.
    uint256 private constant CHANNEL_UNKNOWN = 1;
    uint256 private constant AMOUNT_ABOVE_RESERVED = 2;
    uint256 private constant SIGNATURE_INVALID = 3;

    /// The number of entries, at least one.
    function count(bytes calldata data) internal pure returns (uint256) {
        if (data.length < HEADER_LENGTH + ENTRY_LENGTH || (data.length - HEADER_LENGTH) % ENTRY_LENGTH != 0) {
            revert IChannels.PackedLengthInvalid(data.length);
        }
        unchecked {
            return (data.length - HEADER_LENGTH) / ENTRY_LENGTH;
        }
    }

    /// `data` must have passed `count`.
    function token(bytes calldata data) internal pure returns (address value) {
        assembly ("memory-safe") {
            value := shr(96, calldataload(data.offset))
        }
    }

    /// `data` must have passed `count`.
    function payee(bytes calldata data) internal pure returns (address value) {
        assembly ("memory-safe") {
            value := shr(96, calldataload(add(data.offset, 20)))
        }
    }

    /// Marks every channel as claimed up to its voucher, and tells of it in one `ClaimedBatch`.
    /// @dev Does to each entry just what `Channels._claim` does to a plain one, which is its twin: `Packed.t.sol` fuzzes
    /// the one against the other. It is one block of assembly because an entry may cost eleven thousand gas, of which
    /// storage, ecrecover, calldata and log take more than ten: what Solidity adds in checks and copies would not fit.
    /// No sum can overflow: amounts have 104 bits, and there are fewer entries than bytes of calldata.
    /// @return credited What the payee is to be credited with.
    function claim(bytes calldata data, bytes32 separator) internal returns (uint256 credited) {
        uint256 entries = count(data);
        bytes32 configTypehash = Digests.CHANNEL_CONFIG_TYPEHASH;
        bytes32 voucherTypehash = Digests.VOUCHER_TYPEHASH;
        bytes32 batchTopic = IChannels.ClaimedBatch.selector;
        uint256 failure;
        assembly ("memory-safe") {
            // Takes the memory from CONFIG to past the log. Nothing is allocated so far: if it were, this would refuse.
            if gt(mload(0x40), CONFIG) { revert(0, 0) }
            mstore(0x40, and(add(LOG_ENTRIES, add(mul(entries, LOG_ENTRY_LENGTH), 0x5f)), not(0x1f)))

            mstore(CONFIG, configTypehash)
            mstore(PAYER, 0)
            mstore(PAYEE, shr(96, calldataload(add(data.offset, 20))))
            mstore(PAYEE_AUTHORIZER, shr(96, calldataload(add(data.offset, 40))))
            mstore(TOKEN, shr(96, calldataload(data.offset)))
            mstore(WITHDRAW_DELAY, shr(216, calldataload(add(data.offset, 60))))
            mstore(SALT, 0)
            mstore(VOUCHER, voucherTypehash)
            mstore(sub(SEPARATOR, 0x20), 0x1901) // its last two bytes are at DIGEST
            mstore(SEPARATOR, separator)

            let logEnd := LOG_ENTRIES
            let end := add(data.offset, data.length)
            for { let entry := add(data.offset, HEADER_LENGTH) } lt(entry, end) { entry := add(entry, ENTRY_LENGTH) } {
                // The channel. Members are moved in whole words: what the payer's and the salt's write too far is
                // overwritten next, or spare.
                calldatacopy(ENTRY, entry, ENTRY_LENGTH)
                mstore(add(PAYER, 12), mload(ENTRY))
                mstore(PAYER_AUTHORIZER, shr(96, mload(add(ENTRY, 20))))
                mstore(add(SALT, 24), mload(add(ENTRY, 40)))
                mstore(STRUCT_HASH, keccak256(CONFIG, 0x100))
                let id := keccak256(DIGEST, 0x42)
                let slot := sload(id)

                // What there is to claim in it.
                let amount := and(mload(add(ENTRY, 29)), AMOUNT_MASK) // the word that ends with it
                let claimed := and(shr(104, slot), AMOUNT_MASK)
                mstore(VOUCHER_ID, id)
                mstore(VOUCHER_AMOUNT, amount)
                if or(or(iszero(gt(amount, claimed)), gt(amount, and(slot, AMOUNT_MASK))), gt(slot, BELOW_CLOSED)) {
                    if iszero(slot) {
                        failure := CHANNEL_UNKNOWN
                        break
                    }
                    if or(gt(slot, BELOW_CLOSED), iszero(gt(amount, claimed))) { continue }
                    failure := AMOUNT_ABOVE_RESERVED
                    break
                }

                // The voucher. A signature that recovers to nobody leaves the digest where the signer should be, and a
                // digest is no address.
                mstore(STRUCT_HASH, keccak256(VOUCHER, 0x60))
                mstore(RECOVER, keccak256(DIGEST, 0x42))
                let vs := mload(RECOVER_S)
                mstore(RECOVER_V, add(27, shr(255, vs)))
                mstore(RECOVER_S, and(vs, S_MASK))
                pop(staticcall(gas(), 1, RECOVER, 0x80, RECOVER, 0x20))
                if or(gt(mload(RECOVER_S), S_MAX), xor(mload(RECOVER), mload(PAYER_AUTHORIZER))) {
                    failure := SIGNATURE_INVALID
                    break
                }

                // The credit. `claimed` grows in place, as the amount is no more than its 104 bits.
                let more := sub(mload(VOUCHER_AMOUNT), claimed)
                sstore(id, add(slot, shl(104, more)))
                credited := add(credited, more)
                mstore(logEnd, id)
                mstore(add(logEnd, 0x20), shl(152, mload(VOUCHER_AMOUNT)))
                logEnd := add(logEnd, LOG_ENTRY_LENGTH)
            }

            if credited {
                mstore(LOG, 0x20)
                mstore(add(LOG, 0x20), sub(logEnd, LOG_ENTRIES))
                mstore(logEnd, 0) // the padding
                let length := and(add(sub(logEnd, LOG), 0x1f), not(0x1f))
                log3(LOG, length, batchTopic, mload(PAYEE), mload(TOKEN))
            }
        }
        if (failure != 0) _refuse(failure);
    }

    /// Refuses the batch for the entry that was read last.
    function _refuse(uint256 failure) private view {
        bytes32 id;
        uint256 amount;
        assembly ("memory-safe") {
            id := mload(VOUCHER_ID)
            amount := mload(VOUCHER_AMOUNT)
        }
        if (failure == CHANNEL_UNKNOWN) revert IChannels.ChannelUnknown(id);
        if (failure == SIGNATURE_INVALID) revert IChannels.VoucherSignatureInvalid(id);
        revert IChannels.AmountAboveReserved(id, amount, channelAt(id).slot.reserved());
    }
}
