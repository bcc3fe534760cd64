// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// What a channel is. Its EIP-712 digest is the channel's id, so none of it can change.
/// @param payer Who funds the channel out of its deposit and gets back what is not claimed.
/// @param payerAuthorizer The key that signs vouchers, or zero where the payer itself does (EOA or EIP-1271).
/// @param payee Who is credited. What it has earned can be sent nowhere else.
/// @param payeeAuthorizer The key that signs cooperative closes, or zero where the payee itself does (EOA or EIP-1271).
/// @param token The ERC-20 that is paid in.
/// @param withdrawDelay Seconds between the payer's wish to close and the close; the payee claims in them.
/// @param salt Tells apart channels that are otherwise alike. Packed claims need it below 2^64.
struct ChannelConfig {
    address payer;
    address payerAuthorizer;
    address payee;
    address payeeAuthorizer;
    address token;
    uint40 withdrawDelay;
    bytes32 salt;
}

/// A voucher to be claimed.
/// @param config The channel.
/// @param amount The cumulative amount that the voucher promises, in the token's smallest unit.
/// @param signature The payer side's signature of the voucher, 65 bytes or 64 (EIP-2098), or whatever its EIP-1271 wallet takes.
struct Claim {
    ChannelConfig config;
    uint128 amount;
    bytes signature;
}

enum Status {
    None,
    Open,
    Closing,
    Closed
}

/// A channel as views show it.
/// @param reserved All that was ever put in. A closed channel keeps the figure, though it holds nothing more.
/// @param claimed All that was ever credited to the payee.
/// @param closeAt The time from which anybody may finish the close (seconds), or zero where none was started.
/// @param status Where the channel is in its life. It only moves forward.
struct ChannelState {
    uint128 reserved;
    uint128 claimed;
    uint40 closeAt;
    Status status;
}
