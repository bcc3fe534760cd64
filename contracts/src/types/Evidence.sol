// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Digests} from "../libraries/Digests.sol";

/// What somebody has bonded.
/// @param amount All of it, in the token's smallest unit.
/// @param locked How much of it a dispute holds.
/// @param leaving How much of it may be withdrawn from `due` on.
/// @param due Unix time in seconds; zero where nothing is announced.
struct Bond {
    uint128 amount;
    uint128 locked;
    uint128 leaving;
    uint40 due;
}

/// A receipt and the payee authorizer's signature of it: 65 bytes, or 64 (EIP-2098).
struct SignedReceipt {
    Digests.Receipt receipt;
    bytes signature;
}

/// A provider's word for what it served: the SHA-256 of one block of a file of a BitTorrent v2 torrent (BEP 52).
/// @param root The file's pieces root: the root of the tree over the SHA-256 of its blocks of 16 KiB.
/// @param length The file's length in bytes.
/// @param index The block's number, from zero.
/// @param leaf The SHA-256 of the block as it was served.
struct Block {
    bytes32 root;
    uint64 length;
    uint64 index;
    bytes32 leaf;
}

/// A statement and the provider authorizer's signature of it: 65 bytes, or 64 (EIP-2098).
struct SignedBlock {
    Block statement;
    bytes signature;
}

/// A wallet's delegation with its signature, which may be empty where it is registered in `Keys`.
struct SignedDelegation {
    Digests.Delegation delegation;
    bytes signature;
}
