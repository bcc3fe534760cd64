// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// What the chain says of a device and an authorizer that claim to act for a wallet.
/// Unknown: nothing; the signed delegation that they show decides. Registered: they do, until the expiry. Expired: what was
/// registered is over, though a newer delegation that they show may count. Revoked: one of the two never counts again.
enum Standing {
    Unknown,
    Registered,
    Expired,
    Revoked
}

/// Who claims to act for whom.
/// @param device The Ed25519 public key of the device, or zero where it is not asked about.
/// @param authorizer The secp256k1 key that signs for the wallet's channels, or zero where it is not asked about.
struct Speaker {
    address wallet;
    bytes32 device;
    address authorizer;
}

/// What all channels that name one authorizer may hold together, in one token.
/// @param amount In the token's smallest unit; at most 2^104 - 1.
/// @param declared Whether the wallet ever said so.
struct Cap {
    uint104 amount;
    bool declared;
}
