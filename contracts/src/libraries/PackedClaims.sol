// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Digests} from "./Digests.sol";

/// @title Claims of one payee, one token and one delay, without the padding and repetition of the plain ABI.
/// @dev header, 65 bytes:  token 20 | payee 20 | payeeAuthorizer 20 | withdrawDelay 5
///      entry, 125 bytes:  payer 20 | payerAuthorizer 20 | salt 8 | amount 13 | r 32 | vs 32 (EIP-2098)
/// Integers are big endian; one or more entries follow the header and nothing follows them. The ids and digests made
/// here equal those of `Digests`: the hashing is by hand because it is done twice per entry in memory that is laid out
/// once per call, and `PackedClaims.t.sol` fuzzes the one against the other.
library PackedClaims {
    uint256 internal constant HEADER_LENGTH = 65;
    uint256 internal constant ENTRY_LENGTH = 125;
    /// Bytes of the `ClaimedBatch` log for each credited entry: id 32 | new cumulative amount 13.
    uint256 internal constant LOG_ENTRY_LENGTH = 45;

    error PackedLengthInvalid(uint256 length);

    /// Memory that is filled once per call and then only where entries differ.
    type Scratch is uint256;

    // Offsets into the scratch memory.
    uint256 private constant CONFIG = 0x00; // type hash, then the seven members of ChannelConfig
    uint256 private constant CONFIG_LENGTH = 0x100;
    uint256 private constant VOUCHER = 0x100; // type hash, channel id, amount
    uint256 private constant VOUCHER_LENGTH = 0x60;
    uint256 private constant DIGEST = 0x160; // 0x1901, domain separator, struct hash
    uint256 private constant DIGEST_LENGTH = 0x42;
    uint256 private constant SCRATCH_LENGTH = 0x1c0;

    /// The number of entries, at least one.
    function count(bytes calldata data) internal pure returns (uint256) {
        if (data.length < HEADER_LENGTH + ENTRY_LENGTH || (data.length - HEADER_LENGTH) % ENTRY_LENGTH != 0) {
            revert PackedLengthInvalid(data.length);
        }
        unchecked {
            return (data.length - HEADER_LENGTH) / ENTRY_LENGTH;
        }
    }

    function token(bytes calldata data) internal pure returns (address) {
        return address(bytes20(data[0:20]));
    }

    function payee(bytes calldata data) internal pure returns (address) {
        return address(bytes20(data[20:40]));
    }

    /// Lays out what all entries share. `data` must have passed `count`.
    function prepare(bytes calldata data, bytes32 separator) internal pure returns (Scratch scratch) {
        bytes32 configTypehash = Digests.CHANNEL_CONFIG_TYPEHASH;
        bytes32 voucherTypehash = Digests.VOUCHER_TYPEHASH;
        assembly ("memory-safe") {
            scratch := mload(0x40)
            mstore(0x40, add(scratch, SCRATCH_LENGTH))
            mstore(scratch, configTypehash)
            mstore(add(scratch, 0x60), shr(96, calldataload(add(data.offset, 20)))) // payee
            mstore(add(scratch, 0x80), shr(96, calldataload(add(data.offset, 40)))) // payeeAuthorizer
            mstore(add(scratch, 0xa0), shr(96, calldataload(data.offset))) // token
            mstore(add(scratch, 0xc0), shr(216, calldataload(add(data.offset, 60)))) // withdrawDelay
            mstore(add(scratch, VOUCHER), voucherTypehash)
            mstore(add(scratch, DIGEST), shl(240, 0x1901))
            mstore(add(scratch, add(DIGEST, 0x02)), separator)
        }
    }

    /// The channel id and the amount of the entry at `position` in calldata.
    function channel(Scratch scratch, uint256 position) internal pure returns (bytes32 id, uint256 amount) {
        assembly ("memory-safe") {
            mstore(add(scratch, 0x20), shr(96, calldataload(position))) // payer
            mstore(add(scratch, 0x40), shr(96, calldataload(add(position, 20)))) // payerAuthorizer
            let word := calldataload(add(position, 40)) // salt 8, amount 13
            mstore(add(scratch, 0xe0), shr(192, word)) // salt
            amount := and(shr(88, word), 0xffffffffffffffffffffffffff)
            mstore(add(scratch, add(DIGEST, 0x22)), keccak256(scratch, CONFIG_LENGTH))
            id := keccak256(add(scratch, DIGEST), DIGEST_LENGTH)
        }
    }

    /// The voucher's digest, the signer that it must have and its signature, for the entry that `channel` read last.
    function voucher(Scratch scratch, uint256 position, bytes32 id, uint256 amount)
        internal
        pure
        returns (bytes32 digest, address authorizer, bytes32 r, bytes32 vs)
    {
        assembly ("memory-safe") {
            mstore(add(scratch, add(VOUCHER, 0x20)), id)
            mstore(add(scratch, add(VOUCHER, 0x40)), amount)
            mstore(add(scratch, add(DIGEST, 0x22)), keccak256(add(scratch, VOUCHER), VOUCHER_LENGTH))
            digest := keccak256(add(scratch, DIGEST), DIGEST_LENGTH)
            authorizer := mload(add(scratch, 0x40))
            r := calldataload(add(position, 61))
            vs := calldataload(add(position, 93))
        }
    }

    /// Room for the log of `entries` credits, of length zero so far.
    function openLog(uint256 entries) internal pure returns (bytes memory log) {
        // One word more than the entries need: `append` writes whole words.
        log = new bytes(entries * LOG_ENTRY_LENGTH + 32);
        assembly ("memory-safe") {
            mstore(log, 0)
        }
    }

    /// Appends a credit. The log must have room for it.
    function append(bytes memory log, bytes32 id, uint256 amount) internal pure {
        assembly ("memory-safe") {
            let length := mload(log)
            let end := add(add(log, 0x20), length)
            mstore(end, id)
            mstore(add(end, 0x20), shl(152, amount))
            mstore(log, add(length, LOG_ENTRY_LENGTH))
        }
    }
}
