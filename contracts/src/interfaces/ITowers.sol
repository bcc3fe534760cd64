// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Appointment, Defence, RewardAccount} from "../types/Appointment.sol";
import {ChannelConfig, Claim} from "../types/Channel.sol";

/// @title Rewards for watchtowers: who claims a sleeping payee's newest voucher while its channel is closing.
/// @notice A payee puts reward money aside and its side signs appointments. Whoever then has the channel contract credit
/// a voucher of at least the appointed amount, through this contract, while the channel is closing and less than that
/// amount is claimed, has defended the channel. When the channel is closed, the last defence, which is the one that
/// credited most, gets the reward of its appointment; the ones before it get nothing. So a payee pays at most one reward
/// for each channel, and a tower that comes with an old appointment cannot take the reward from one that does better.
/// @dev This contract has no rights in `Channels`: it calls what anybody may call, and what the channel pays is the same
/// without it. Nobody owns, pauses or upgrades it.
///
/// An appointment is signed by the side that signs cooperative closes: the channel's payee authorizer, or the payee's
/// wallet (EOA or EIP-1271) where the channel names none. The authorizer is the hot key that already guards the channel,
/// an appointment is renewed with every voucher that matters, and the wallet may be cold. But anybody can open a channel
/// to a payee that names an authorizer of his own, so reward money is kept apart by (payee, payee authorizer, token):
/// a key can promise only what was paid in for appointments of that very key. A stolen authorizer costs its accounts.
///
/// What a tower should know. Appointments are not recorded here until they are used, so a payee can promise more than it
/// has: look at `covered`. What that shows stays there for at least `NOTICE` seconds, save for what rewards take, so take
/// no appointment that expires later. Anybody who sees a defence before it is mined can send the same with
/// another beneficiary: the payee is served alike.
interface ITowers {
    // Events

    /// @notice Reward money arrived.
    event RewardDeposited(
        address indexed payee, address indexed payeeAuthorizer, address indexed token, address from, uint256 amount
    );

    /// @notice `amount` of reward money may be withdrawn from `due` (seconds) on.
    event WithdrawalAnnounced(
        address indexed payee, address indexed payeeAuthorizer, address indexed token, uint128 amount, uint40 due
    );

    /// @notice Reward money went back.
    event RewardWithdrawn(
        address indexed payee, address indexed payeeAuthorizer, address indexed token, address to, uint256 amount
    );

    /// @notice A channel was defended: `claimed` in all is credited to its payee now. Earlier defences of it count no more.
    event Defended(
        bytes32 indexed channelId,
        address indexed payee,
        address indexed beneficiary,
        uint128 claimed,
        address token,
        uint128 reward
    );

    /// @notice A defence was paid.
    event Rewarded(bytes32 indexed channelId, address indexed beneficiary, address token, uint128 reward);

    // Refusals

    /// @notice An amount of zero makes no sense here.
    error AmountZero();
    /// @notice A reward is at most 2^96 - 1.
    error RewardTooLarge(uint256 reward);
    /// @notice The token moved nothing.
    error NothingReceived(address token);
    /// @notice Money cannot go there: the zero address, or this contract.
    error RecipientInvalid(address recipient);
    /// @notice Nobody defends a channel that is not closing.
    error ChannelNotClosing(bytes32 channelId);
    /// @notice Somebody was faster: as much as is appointed is claimed already.
    error AlreadyClaimed(bytes32 channelId, uint128 claimed);
    /// @notice The appointment has expired.
    error AppointmentExpired(uint64 expiry);
    /// @notice The appointment names another channel or payee than the claim.
    error AppointmentOfAnother(bytes32 channelId);
    /// @notice The voucher promises less than is appointed.
    error VoucherTooSmall(uint128 amount, uint128 appointed);
    /// @notice The payee's side did not sign this appointment.
    error AppointmentSignatureInvalid(bytes32 channelId);
    /// @notice The reward account does not cover the reward.
    error RewardUncovered(uint256 available, uint256 reward);
    /// @notice There is no defence to be paid.
    error NothingToCollect(bytes32 channelId);
    /// @notice Nothing is announced, or its time has not come (then `due` is not zero).
    error WithdrawalTooEarly(uint40 due);

    // Reward money

    /// @notice Takes `amount` of `token` from the sender as reward money for appointments of `payee`'s channels that
    /// `payeeAuthorizer` signs; zero where the wallet itself does. Only the payee can withdraw it, whoever paid.
    function deposit(address payee, address payeeAuthorizer, address token, uint128 amount) external;

    /// @notice The sender, a payee, will withdraw up to `amount` of an account in `NOTICE` seconds or later. This replaces
    /// what was announced before, its time too; zero takes it back. Until it is withdrawn it still pays rewards.
    function announceWithdrawal(address payeeAuthorizer, address token, uint128 amount) external;

    /// @notice Sends `to` what was announced, or what is left of it.
    /// @return amount What was sent.
    function withdraw(address payeeAuthorizer, address token, address to) external returns (uint256 amount);

    // Defence

    /// @notice Claims the voucher in `Channels` for the payee and sets the reward aside for `beneficiary`. Anybody may send
    /// it. Whoever is late is refused before any signature is looked at.
    /// @param claim The newest voucher, as `Channels.claim` takes it, of at least the appointed amount.
    /// @param payeeSignature Of the appointment: 65 bytes, or 64 (EIP-2098), or whatever the payee's EIP-1271 wallet takes.
    /// @param beneficiary Who gets the reward.
    function defend(
        Claim calldata claim,
        Appointment calldata appointment,
        bytes calldata payeeSignature,
        address beneficiary
    ) external;

    /// @notice Pays the last defence of a closed channel. Anybody may send it. A channel whose close can be finished is
    /// finished first (`Channels.finishClose`), and if it cannot yet be, the reason is `Channels`'s.
    /// @return reward What was paid.
    function collect(ChannelConfig calldata config) external returns (uint128 reward);

    // Views

    /// @notice Seconds between an announcement and the withdrawal: 30 days.
    function NOTICE() external view returns (uint40);

    /// @notice The channel contract whose channels are defended.
    function CHANNELS() external view returns (address);

    /// @notice Where a reward account stands.
    function account(address payee, address payeeAuthorizer, address token) external view returns (RewardAccount memory);

    /// @notice What of an account is not announced for withdrawal: what a tower can rely on for `NOTICE` seconds, save for
    /// rewards of other channels.
    function covered(address payee, address payeeAuthorizer, address token) external view returns (uint256);

    /// @notice The defence of a channel that waits for its reward; all zero if there is none.
    function defence(bytes32 channelId) external view returns (Defence memory);

    /// @notice The EIP-712 domain separator: "Sparewire Towers", version "1", this chain, this contract.
    function domainSeparator() external view returns (bytes32);

    /// @notice What the payee's side signs:
    /// `Appointment(bytes32 channelId,uint128 amount,address payee,address token,uint128 reward,uint64 expiry)`.
    function appointmentDigest(Appointment calldata appointment) external view returns (bytes32);
}
