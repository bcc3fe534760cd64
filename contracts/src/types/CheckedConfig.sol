// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// A `ChannelConfig` whose words are known to be well formed, in memory behind its type hash, just as it is hashed.
/// Only `Digests.channelId` makes one.
/// @dev A memory struct would do, were it not zeroed before it is written and masked whenever it is read.
type CheckedConfig is uint256;

using {payer, payerAuthorizer, payee, payeeAuthorizer, token, withdrawDelay, salt} for CheckedConfig global;

function payer(CheckedConfig config) pure returns (address value) {
    assembly ("memory-safe") {
        value := mload(add(config, 0x20))
    }
}

function payerAuthorizer(CheckedConfig config) pure returns (address value) {
    assembly ("memory-safe") {
        value := mload(add(config, 0x40))
    }
}

function payee(CheckedConfig config) pure returns (address value) {
    assembly ("memory-safe") {
        value := mload(add(config, 0x60))
    }
}

function payeeAuthorizer(CheckedConfig config) pure returns (address value) {
    assembly ("memory-safe") {
        value := mload(add(config, 0x80))
    }
}

function token(CheckedConfig config) pure returns (address value) {
    assembly ("memory-safe") {
        value := mload(add(config, 0xa0))
    }
}

function withdrawDelay(CheckedConfig config) pure returns (uint40 value) {
    assembly ("memory-safe") {
        value := mload(add(config, 0xc0))
    }
}

function salt(CheckedConfig config) pure returns (bytes32 value) {
    assembly ("memory-safe") {
        value := mload(add(config, 0xe0))
    }
}
