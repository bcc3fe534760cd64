// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title Merkle trees of BitTorrent v2 files (BEP 52): SHA-256 over blocks of 16 KiB, the last of which may be shorter.
/// The leaves are filled up with zeros to a power of two.
library PieceTree {
    uint256 internal constant BLOCK_LENGTH = 16 * 1024;

    /// How many blocks a file of `length` bytes has.
    function blocks(uint64 length) internal pure returns (uint256) {
        return (uint256(length) + BLOCK_LENGTH - 1) / BLOCK_LENGTH;
    }

    /// How many hashes lead from a leaf to the root: the height of the least tree with so many leaves; at most 50.
    function height(uint64 length) internal pure returns (uint256 found) {
        uint256 count = blocks(length);
        while (1 << found < count) ++found;
    }

    /// Whether `leaf` is the leaf number `index` of a file of `length` bytes under `root`. The height is the length's, so
    /// that no inner node passes for a leaf.
    /// @param proof The siblings on the way, from the leaf's own.
    function contains(bytes32 root, uint64 length, uint64 index, bytes32 leaf, bytes32[] calldata proof)
        internal
        pure
        returns (bool)
    {
        if (index >= blocks(length) || proof.length != height(length)) return false;
        bytes32 node = leaf;
        for (uint256 i = 0; i < proof.length; ++i) {
            bool isRight = (index >> i) & 1 == 1;
            node = isRight ? sha256(abi.encode(proof[i], node)) : sha256(abi.encode(node, proof[i]));
        }
        return node == root;
    }
}
