// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {IChannels} from "../interfaces/IChannels.sol";
import {ChannelConfig} from "../types/Channel.sol";
import {CheckedConfig} from "../types/CheckedConfig.sol";

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

    /// The channel's id, and its config in memory.
    /// @dev By hand because every function pays for it: the config lies in calldata just as it is hashed, so one copy
    /// does, and one look at the bits that must be clear. `channelIdOf` is the plain twin.
    function channelId(bytes32 separator, ChannelConfig calldata source)
        internal
        pure
        returns (bytes32 id, CheckedConfig config)
    {
        bytes32 typehash = CHANNEL_CONFIG_TYPEHASH;
        uint256 dirt;
        assembly ("memory-safe") {
            // Type hash and the seven members; then 0x1901, separator and struct hash.
            config := mload(0x40)
            let digest := add(config, 0x100)
            mstore(0x40, add(config, 0x160))
            mstore(config, typehash)
            calldatacopy(add(config, 0x20), source, 0xe0)
            dirt := or(
                shr(
                    160,
                    or(
                        or(calldataload(source), calldataload(add(source, 0x20))),
                        or(
                            or(calldataload(add(source, 0x40)), calldataload(add(source, 0x60))),
                            calldataload(add(source, 0x80))
                        )
                    )
                ),
                shr(40, calldataload(add(source, 0xa0)))
            )
            mstore(digest, shl(240, 0x1901))
            mstore(add(digest, 0x02), separator)
            mstore(add(digest, 0x22), keccak256(config, 0x100))
            id := keccak256(digest, 0x42)
        }
        if (dirt != 0) revert IChannels.ConfigMalformed();
    }

    /// The plain twin of `channelId`.
    function channelIdOf(bytes32 separator, ChannelConfig memory config) internal pure returns (bytes32) {
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
