// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// What somebody has in one token.
struct Balance {
    uint256 amount;
}

/// Where the deposit of `payer` in `token` is: keccak256(abi.encode(payer, token)). One hash where a mapping in a
/// mapping takes two. The contract has no mapping whose places these could meet.
function depositAt(address payer, address token) pure returns (Balance storage found) {
    assembly ("memory-safe") {
        mstore(0x00, shr(96, shl(96, payer)))
        mstore(0x20, shr(96, shl(96, token)))
        found.slot := keccak256(0x00, 0x40)
    }
}

/// Where what `payee` has earned in `token` and was not sent is: keccak256(abi.encode(payee, 2^160 + token)). No deposit
/// is there, for no address has that bit.
function claimableAt(address payee, address token) pure returns (Balance storage found) {
    assembly ("memory-safe") {
        mstore(0x00, shr(96, shl(96, payee)))
        mstore(0x20, or(shl(160, 1), shr(96, shl(96, token))))
        found.slot := keccak256(0x00, 0x40)
    }
}
