// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ChannelConfig, ChannelState, Claim} from "../types/Channel.sol";

/// @title Payment channels that are opened out of one deposit.
/// @notice A payer deposits once, opens channels to payees out of that deposit and pays by signing vouchers: a voucher
/// carries a cumulative amount, so the newest supersedes all others. The payee claims when it likes, many channels at
/// once. What a closed channel gives back returns to the payer's deposit.
/// @dev Nobody owns, pauses or upgrades the contract. Every amount is in the token's smallest unit. A token that
/// takes its fee out of what it transfers is credited with what arrived; tokens whose balances change by themselves
/// (rebasing), or that charge the sender on top, are not supported and harm only those who use them.
/// A channel's id binds chain and contract; should a chain split, ids and vouchers hold on the side that keeps the
/// chain id.
interface IChannels {
    // Deposits

    /// @notice Money arrived in a payer's deposit.
    /// @param from Who sent it.
    /// @param amount What arrived.
    event Deposited(address indexed payer, address indexed token, address indexed from, uint256 amount);

    /// @notice Money left a payer's deposit and the contract.
    event Withdrawn(address indexed payer, address indexed token, address indexed to, uint256 amount);

    // Channels

    /// @notice A channel was opened with `amount` in it. The event carries the whole config.
    event Opened(
        bytes32 indexed channelId,
        address indexed payer,
        address indexed payee,
        address payerAuthorizer,
        address payeeAuthorizer,
        address token,
        uint40 withdrawDelay,
        bytes32 salt,
        uint128 amount
    );

    /// @notice `amount` more went into a channel, which makes `reserved` in all.
    event ToppedUp(
        bytes32 indexed channelId, address indexed payer, address indexed payee, uint128 amount, uint128 reserved
    );

    /// @notice A plain claim or a cooperative close credited the payee, who has now earned `claimed` in this channel in all.
    event Claimed(bytes32 indexed channelId, address indexed payee, address indexed token, uint128 claimed);

    /// @notice A packed claim credited the payee in one or more channels.
    /// @param entries For each credit 45 bytes: the channel's id (32) and what is now claimed in it in all (13, big endian).
    event ClaimedBatch(address indexed payee, address indexed token, bytes entries);

    /// @notice What a payee had earned left the contract.
    event Swept(address indexed payee, address indexed token, uint256 amount);

    /// @notice The payer wants to close. The payee has until `closeAt` (seconds) to be sure that its claim counts.
    event CloseStarted(bytes32 indexed channelId, address indexed payer, address indexed payee, uint40 closeAt);

    /// @notice A channel is closed for good: `claimed` went to the payee in all, `refunded` back to the payer's deposit.
    event Closed(
        bytes32 indexed channelId, address indexed payer, address indexed payee, uint128 claimed, uint128 refunded
    );

    // Refusals

    /// @notice An amount of zero makes no sense here.
    error AmountZero();
    /// @notice A channel holds at most 2^104 - 1.
    error AmountTooLarge(uint256 amount);
    /// @notice The token moved nothing.
    error NothingReceived(address token);
    /// @notice The deposit does not cover it.
    error DepositTooSmall(address payer, address token, uint256 available, uint256 needed);
    /// @notice Money cannot go there: the zero address, or this contract.
    error RecipientInvalid(address recipient);
    /// @notice A channel needs a token.
    error TokenInvalid(address token);
    /// @notice Only the channel's payer may do this.
    error SenderNotPayer(address sender, address payer);
    /// @notice The delay is not within 15 minutes and 30 days.
    error WithdrawDelayInvalid(uint40 withdrawDelay);
    /// @notice There must be as many amounts as configs.
    error LengthsDiffer(uint256 configs, uint256 amounts);
    /// @notice An authorization's signature has neither 65 bytes nor 64.
    error SignatureLengthInvalid(uint256 length);
    /// @notice Packed claims are 65 bytes and then 125 for each of one or more entries.
    error PackedLengthInvalid(uint256 length);
    /// @notice An address or the delay in a config has bits where there must be none.
    error ConfigMalformed();
    /// @notice The channel was opened before; even a closed channel's id is never used again.
    error ChannelExists(bytes32 channelId);
    /// @notice The channel was never opened.
    error ChannelUnknown(bytes32 channelId);
    /// @notice The channel is closing or closed.
    error ChannelNotOpen(bytes32 channelId);
    /// @notice The channel's close was not started.
    error ChannelNotClosing(bytes32 channelId);
    /// @notice The channel is closed.
    error ChannelClosed(bytes32 channelId);
    /// @notice The payee still has time to claim.
    error CloseTooEarly(bytes32 channelId, uint40 closeAt);
    /// @notice The voucher promises more than the channel holds.
    error AmountAboveReserved(bytes32 channelId, uint256 amount, uint256 reserved);
    /// @notice The payer's side did not sign this voucher.
    error VoucherSignatureInvalid(bytes32 channelId);
    /// @notice The payee's side did not sign this close.
    error CloseSignatureInvalid(bytes32 channelId);

    // Deposits

    /// @notice Takes `amount` of `token` from the sender into the sender's deposit.
    function deposit(address token, uint128 amount) external;

    /// @notice Takes `amount` of `token` from the sender into `payer`'s deposit.
    function depositFor(address payer, address token, uint128 amount) external;

    /// @notice As `deposit`, after an EIP-2612 permit. A permit that fails is passed over: somebody may have sent it
    /// ahead, and then the allowance is there.
    function depositWithPermit(address token, uint128 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice Takes `amount` of `token` from `payer` into `payer`'s deposit by an EIP-3009 `ReceiveWithAuthorization`
    /// that names this contract. Anybody may send it; the money is credited to `payer` whoever does.
    /// @param signature 65 bytes, or 64 (EIP-2098).
    function depositWithAuthorization(
        address payer,
        address token,
        uint128 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;

    /// @notice Sends `amount` of the sender's deposit to `to`.
    function withdraw(address token, uint128 amount, address to) external;

    // Channels

    /// @notice Opens a channel with `amount` of the payer's deposit in it. Only the payer may.
    function open(ChannelConfig calldata config, uint128 amount) external;

    /// @notice Opens several channels, all or none.
    function openBatch(ChannelConfig[] calldata configs, uint128[] calldata amounts) external;

    /// @notice Moves `amount` more from the payer's deposit into an open channel. Only the payer may.
    function topUp(ChannelConfig calldata config, uint128 amount) external;

    /// @notice Credits the payees with what these vouchers promise beyond what was claimed before. Anybody may send it.
    /// @dev An entry that is no higher than what is claimed, or whose channel is closed, is passed over, so that nobody
    /// spoils a batch by being faster with one of its entries. A voucher signed by an EIP-1271 wallet is as good as that
    /// wallet's answer when it is claimed: such a wallet can spoil a batch, so claim its vouchers apart.
    function claim(Claim[] calldata claims) external;

    /// @notice As `claim`, for channels of one payee, payee authorizer, token and delay whose payers have an authorizer.
    /// @param data header of 65 bytes: token 20, payee 20, payeeAuthorizer 20, withdrawDelay 5; then per entry 125 bytes:
    /// payer 20, payerAuthorizer 20, salt 8, amount 13, r 32, vs 32 (EIP-2098). Integers are big endian.
    function claimPacked(bytes calldata data) external;

    /// @notice As `claimPacked`, and sends the payee all that it has earned in this token. Anybody may send it.
    function claimPackedAndSweep(bytes calldata data) external;

    /// @notice Sends the payee all that it has earned in this token. Anybody may send it.
    /// @return amount What was sent; zero if there was nothing.
    function sweep(address payee, address token) external returns (uint256 amount);

    /// @notice Closes at once what the payee's side agrees to close once `claim.amount` in all is credited to it. Anybody may
    /// send it.
    /// @param claim The newest voucher. Its signature may be empty if no more than `claim.amount` is to be credited than is.
    /// @param payeeSignature Of the `CooperativeClose` with `claim.amount`. Not looked at if the payee or its authorizer sends
    /// this.
    function closeCooperatively(Claim calldata claim, bytes calldata payeeSignature) external;

    /// @notice Starts the close that needs nobody's consent. Only the payer may. It cannot be taken back.
    function startClose(ChannelConfig calldata config) external;

    /// @notice Finishes that close once its time has come. Anybody may.
    function finishClose(ChannelConfig calldata config) external;

    // Several at once

    /// @notice Does several of these things for the sender, all or none. So a payer moves its channels to a new authorizer in
    /// one transaction: it closes the old ones cooperatively and opens new ones out of what comes back.
    /// @param calls Each a call of a function of this contract.
    /// @return What each returned.
    function multicall(bytes[] calldata calls) external returns (bytes[] memory);

    // Views

    /// @notice The id of the channel with this config: the config's EIP-712 digest.
    function channelId(ChannelConfig calldata config) external view returns (bytes32);

    /// @notice The channel's state; all zero if it was never opened.
    function channel(bytes32 id) external view returns (ChannelState memory);

    /// @notice What `payer` can open channels with, or withdraw.
    function depositOf(address payer, address token) external view returns (uint256);

    /// @notice What `payee` has earned and not yet been sent.
    function claimableOf(address payee, address token) external view returns (uint256);

    /// @notice The EIP-712 domain separator: "Sparewire Channels", version "1", this chain, this contract.
    function domainSeparator() external view returns (bytes32);

    /// @notice What the payer's side signs to pay.
    function voucherDigest(bytes32 id, uint128 amount) external view returns (bytes32);

    /// @notice What the payee's side signs to close at once.
    function cooperativeCloseDigest(bytes32 id, uint128 amount) external view returns (bytes32);
}
