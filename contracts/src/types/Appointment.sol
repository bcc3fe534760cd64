// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// What a payee's side promises to whoever defends one of its channels.
/// @param channelId The channel.
/// @param amount The least that the channel's payee must have been credited with after the defence (cumulative).
/// @param payee The channel's payee, out of whose reward account it is paid.
/// @param token The token of the reward. It need not be the channel's.
/// @param reward In that token's smallest unit; at most 2^96 - 1.
/// @param expiry Unix time in seconds. The appointment still counts in that second, and not after.
struct Appointment {
    bytes32 channelId;
    uint128 amount;
    address payee;
    address token;
    uint128 reward;
    uint64 expiry;
}

/// The best defence of a channel so far.
/// @param beneficiary Who gets the reward once the channel is closed; zero where nobody defended it, or all is paid.
/// @param reward What is set aside for it.
/// @param token In this token.
struct Defence {
    address beneficiary;
    uint96 reward;
    address token;
}

/// Reward money of one payee for appointments that one key signs, in one token.
/// @param balance All of it that is not set aside for a defence.
/// @param announced How much of it may be withdrawn from `due` on.
/// @param due Unix time in seconds; zero where nothing is announced.
struct RewardAccount {
    uint256 balance;
    uint128 announced;
    uint40 due;
}
