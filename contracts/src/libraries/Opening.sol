// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IChannels} from "../interfaces/IChannels.sol";
import {depositAt} from "../types/Balance.sol";
import {ChannelConfig} from "../types/Channel.sol";
import {AMOUNT_MAX, channelAt} from "../types/ChannelSlot.sol";
import {Digests} from "./Digests.sol";

/// @title How a channel is opened out of its payer's deposit.
library Opening {
    // At least long enough for a payee that looks in now and then, or for its watchtower.
    uint256 private constant WITHDRAW_DELAY_MIN = 15 minutes;
    uint256 private constant WITHDRAW_DELAY_MAX = 30 days;

    uint256 private constant AMOUNT_MAX_LESS_1 = 0xfffffffffffffffffffffffffe;
    uint256 private constant OPEN = 1 << 248; // Status.Open in its place

    // Scratch memory: type hash and config as they are hashed, then 0x1901, separator and struct hash.
    uint256 private constant CONFIG = 0x80;
    uint256 private constant PAYER = 0xa0;
    uint256 private constant PAYER_AUTHORIZER = 0xc0;
    uint256 private constant PAYEE = 0xe0;
    uint256 private constant PAYEE_AUTHORIZER = 0x100;
    uint256 private constant TOKEN = 0x120;
    uint256 private constant WITHDRAW_DELAY = 0x140;
    uint256 private constant DIGEST = 0x180;
    uint256 private constant SEPARATOR = 0x182;
    uint256 private constant STRUCT_HASH = 0x1a2;

    /// Opens the channel `source` with `amount` of the sender's deposit.
    /// @dev By hand because storage, calldata and log leave a thousand gas of the fifty-five thousand that opening may
    /// cost. `PlainOpening` in the tests is the plain twin. The memory is free when this is called (else it refuses) and
    /// free again afterwards.
    function open(bytes32 separator, ChannelConfig calldata source, uint128 amount) internal {
        bytes32 typehash = Digests.CHANNEL_CONFIG_TYPEHASH;
        bytes32 topic = IChannels.Opened.selector;
        bytes32 id;
        bytes32 place;
        uint256 available;
        uint256 refused;
        assembly ("memory-safe") {
            if gt(mload(0x40), CONFIG) { revert(0, 0) }

            mstore(CONFIG, typehash)
            calldatacopy(PAYER, source, 0xe0)
            mstore(DIGEST, shl(240, 0x1901))
            mstore(SEPARATOR, separator)
            mstore(STRUCT_HASH, keccak256(CONFIG, 0x100))
            id := keccak256(DIGEST, 0x42)

            mstore(0x00, caller())
            mstore(0x20, mload(TOKEN))
            place := keccak256(0x00, 0x40)
            available := sload(place)

            // All reasons to refuse at once; `_refuse` tells them apart. A payer with dirty bits is not the sender, and a
            // delay with dirty bits is out of its range.
            refused := or(
                or(
                    or(xor(caller(), mload(PAYER)), or(iszero(mload(TOKEN)), iszero(mload(PAYEE)))),
                    or(
                        gt(sub(mload(WITHDRAW_DELAY), WITHDRAW_DELAY_MIN), sub(WITHDRAW_DELAY_MAX, WITHDRAW_DELAY_MIN)),
                        gt(sub(amount, 1), AMOUNT_MAX_LESS_1)
                    )
                ),
                or(
                    or(gt(amount, available), sload(id)),
                    shr(160, or(or(mload(PAYER_AUTHORIZER), mload(PAYEE)), or(mload(PAYEE_AUTHORIZER), mload(TOKEN))))
                )
            )
        }
        if (refused != 0) _refuse(separator, source, amount);
        assembly ("memory-safe") {
            sstore(place, sub(available, amount))
            sstore(id, or(amount, OPEN))
            // `Opened` shows payerAuthorizer, payeeAuthorizer, token, withdrawDelay, salt, amount: with the first put in the
            // payee's place and the amount behind the salt, they lie in memory in that order.
            let payee := mload(PAYEE)
            mstore(PAYEE, mload(PAYER_AUTHORIZER))
            mstore(DIGEST, amount)
            log4(PAYEE, 0xc0, topic, id, caller(), payee)
        }
    }

    /// Says why a channel cannot be opened.
    function _refuse(bytes32 separator, ChannelConfig calldata source, uint128 amount) private view {
        (bytes32 id,) = Digests.channelId(separator, source);
        if (msg.sender != source.payer) revert IChannels.SenderNotPayer(msg.sender, source.payer);
        if (amount == 0) revert IChannels.AmountZero();
        if (amount > AMOUNT_MAX) revert IChannels.AmountTooLarge(amount);
        if (source.token == address(0)) revert IChannels.TokenInvalid(source.token);
        if (source.payee == address(0)) revert IChannels.RecipientInvalid(source.payee);
        if (source.withdrawDelay < WITHDRAW_DELAY_MIN || source.withdrawDelay > WITHDRAW_DELAY_MAX) {
            revert IChannels.WithdrawDelayInvalid(source.withdrawDelay);
        }
        if (!channelAt(id).slot.isNone()) revert IChannels.ChannelExists(id);
        revert IChannels.DepositTooSmall(
            source.payer, source.token, depositAt(source.payer, source.token).amount, amount
        );
    }
}
