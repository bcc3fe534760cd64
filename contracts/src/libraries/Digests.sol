// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {ChannelConfig} from "../types/Channel.sol";

/// @title The EIP-712 messages of Sparewire, each under the domain separator that it is given.
/// @dev Receipts and delegations are not judged by this version of the contract. They are here so that every
/// implementation has one meaning of them, held together by `vectors/channels.json`.
library Digests {
    bytes32 internal constant CHANNEL_CONFIG_TYPEHASH = keccak256(
        "ChannelConfig(address payer,address payerAuthorizer,address payee,address payeeAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
    );
    bytes32 internal constant VOUCHER_TYPEHASH = keccak256("Voucher(bytes32 channelId,uint128 amount)");
    bytes32 internal constant COOPERATIVE_CLOSE_TYPEHASH =
        keccak256("CooperativeClose(bytes32 channelId,uint128 amount)");
    bytes32 internal constant RECEIPT_TYPEHASH = keccak256(
        "Receipt(bytes32 channelId,bytes32 sessionId,uint64 sequence,uint64 up,uint64 down,uint128 amount,bytes32 previous,uint64 time)"
    );
    bytes32 internal constant DELEGATION_TYPEHASH =
        keccak256("Delegation(address wallet,bytes32 device,address authorizer,uint64 expiry)");

    /// @param up Payload bytes from the payer's side to the payee's.
    /// @param down Payload bytes from the payee's side to the payer's.
    /// @param previous The digest of the receipt before this one, or zero.
    /// @param time Unix time in seconds.
    struct Receipt {
        bytes32 channelId;
        bytes32 sessionId;
        uint64 sequence;
        uint64 up;
        uint64 down;
        uint128 amount;
        bytes32 previous;
        uint64 time;
    }

    /// @param device The Ed25519 public key of the device.
    /// @param expiry Unix time in seconds.
    struct Delegation {
        address wallet;
        bytes32 device;
        address authorizer;
        uint64 expiry;
    }

    function channelId(bytes32 separator, ChannelConfig calldata config) internal pure returns (bytes32) {
        return _digest(separator, keccak256(abi.encode(CHANNEL_CONFIG_TYPEHASH, config)));
    }

    function voucher(bytes32 separator, bytes32 id, uint128 amount) internal pure returns (bytes32) {
        return _digest(separator, keccak256(abi.encode(VOUCHER_TYPEHASH, id, amount)));
    }

    function cooperativeClose(bytes32 separator, bytes32 id, uint128 amount) internal pure returns (bytes32) {
        return _digest(separator, keccak256(abi.encode(COOPERATIVE_CLOSE_TYPEHASH, id, amount)));
    }

    function receipt(bytes32 separator, Receipt memory message) internal pure returns (bytes32) {
        return _digest(separator, keccak256(abi.encode(RECEIPT_TYPEHASH, message)));
    }

    function delegation(bytes32 separator, Delegation memory message) internal pure returns (bytes32) {
        return _digest(separator, keccak256(abi.encode(DELEGATION_TYPEHASH, message)));
    }

    function _digest(bytes32 separator, bytes32 structHash) private pure returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(separator, structHash);
    }
}
