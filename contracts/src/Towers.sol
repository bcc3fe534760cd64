// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {IChannels} from "./interfaces/IChannels.sol";
import {ITowers} from "./interfaces/ITowers.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {Appointment, Defence, RewardAccount} from "./types/Appointment.sol";
import {ChannelConfig, ChannelState, Claim, Status} from "./types/Channel.sol";

/// @title Sparewire's rewards for watchtowers, version 1. What each function means is said in `ITowers`.
contract Towers is ITowers, EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    bytes32 private constant APPOINTMENT_TYPEHASH = keccak256(
        "Appointment(bytes32 channelId,uint128 amount,address payee,address token,uint128 reward,uint64 expiry)"
    );

    /// @inheritdoc ITowers
    uint40 public constant NOTICE = 30 days;

    /// @inheritdoc ITowers
    address public immutable CHANNELS;

    mapping(address payee => mapping(address payeeAuthorizer => mapping(address token => RewardAccount))) private
        _accounts;
    mapping(bytes32 channelId => Defence) private _defences;

    constructor(IChannels channels) EIP712("Sparewire Towers", "1") {
        CHANNELS = address(channels);
    }

    // Reward money

    /// @inheritdoc ITowers
    function deposit(address payee, address payeeAuthorizer, address token, uint128 amount) external nonReentrant {
        if (amount == 0) revert AmountZero();
        _requireRecipient(payee);
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
        uint256 balance = IERC20(token).balanceOf(address(this));
        if (balance <= before) revert NothingReceived(token);
        _accounts[payee][payeeAuthorizer][token].balance += balance - before;
        emit RewardDeposited(payee, payeeAuthorizer, token, msg.sender, balance - before);
    }

    /// @inheritdoc ITowers
    function announceWithdrawal(address payeeAuthorizer, address token, uint128 amount) external nonReentrantView {
        RewardAccount storage found = _accounts[msg.sender][payeeAuthorizer][token];
        uint40 due = amount == 0 ? 0 : uint40(block.timestamp) + NOTICE;
        (found.announced, found.due) = (amount, due);
        emit WithdrawalAnnounced(msg.sender, payeeAuthorizer, token, amount, due);
    }

    /// @inheritdoc ITowers
    function withdraw(address payeeAuthorizer, address token, address to)
        external
        nonReentrant
        returns (uint256 amount)
    {
        _requireRecipient(to);
        RewardAccount storage found = _accounts[msg.sender][payeeAuthorizer][token];
        if (found.due == 0 || block.timestamp < found.due) revert WithdrawalTooEarly(found.due);
        amount = found.announced < found.balance ? found.announced : found.balance;
        if (amount == 0) revert AmountZero();
        found.balance -= amount;
        (found.announced, found.due) = (0, 0);
        emit RewardWithdrawn(msg.sender, payeeAuthorizer, token, to, amount);
        IERC20(token).safeTransfer(to, amount);
    }

    // Defence

    /// @inheritdoc ITowers
    function defend(
        Claim calldata claim,
        Appointment calldata appointment,
        bytes calldata payeeSignature,
        address beneficiary
    ) external nonReentrant {
        bytes32 id = appointment.channelId;
        ChannelState memory state = IChannels(CHANNELS).channel(id);
        if (state.status != Status.Closing) revert ChannelNotClosing(id);
        if (state.claimed >= appointment.amount) revert AlreadyClaimed(id, state.claimed);
        if (block.timestamp > appointment.expiry) revert AppointmentExpired(appointment.expiry);
        if (claim.amount < appointment.amount) revert VoucherTooSmall(claim.amount, appointment.amount);
        if (appointment.reward == 0) revert AmountZero();
        if (appointment.reward > type(uint96).max) revert RewardTooLarge(appointment.reward);
        _requireRecipient(beneficiary);
        ChannelConfig calldata config = claim.config;
        if (appointment.payee != config.payee || IChannels(CHANNELS).channelId(config) != id) {
            revert AppointmentOfAnother(id);
        }
        bytes32 digest = appointmentDigest(appointment);
        if (!Signatures.isSignedBySide(config.payeeAuthorizer, config.payee, digest, payeeSignature)) {
            revert AppointmentSignatureInvalid(id);
        }

        _setAside(id, config, appointment, beneficiary);
        Claim[] memory claims = new Claim[](1);
        claims[0] = claim;
        // Credits all of it or reverts: the channel is closing, and the amount is above what was claimed.
        IChannels(CHANNELS).claim(claims);
        emit Defended(id, config.payee, beneficiary, claim.amount, appointment.token, appointment.reward);
    }

    /// @inheritdoc ITowers
    function collect(ChannelConfig calldata config) external nonReentrant returns (uint128 reward) {
        bytes32 id = IChannels(CHANNELS).channelId(config);
        Defence memory best = _defences[id];
        if (best.beneficiary == address(0)) revert NothingToCollect(id);
        delete _defences[id];
        // Only a closing channel is defended, and a closing one is closed or can be once its time has come.
        if (IChannels(CHANNELS).channel(id).status != Status.Closed) IChannels(CHANNELS).finishClose(config);
        reward = best.reward;
        emit Rewarded(id, best.beneficiary, best.token, reward);
        IERC20(best.token).safeTransfer(best.beneficiary, reward);
    }

    // Views

    /// @inheritdoc ITowers
    function account(address payee, address payeeAuthorizer, address token)
        external
        view
        returns (RewardAccount memory)
    {
        return _accounts[payee][payeeAuthorizer][token];
    }

    /// @inheritdoc ITowers
    function covered(address payee, address payeeAuthorizer, address token) external view returns (uint256) {
        RewardAccount storage found = _accounts[payee][payeeAuthorizer][token];
        return found.balance > found.announced ? found.balance - found.announced : 0;
    }

    /// @inheritdoc ITowers
    function defence(bytes32 channelId) external view returns (Defence memory) {
        return _defences[channelId];
    }

    /// @inheritdoc ITowers
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    /// @inheritdoc ITowers
    function appointmentDigest(Appointment calldata appointment) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(APPOINTMENT_TYPEHASH, appointment)));
    }

    // How money moves

    /// Takes the reward out of the payee's account, after what an earlier defence of the channel had taken went back.
    function _setAside(bytes32 id, ChannelConfig calldata config, Appointment calldata appointment, address beneficiary)
        private
    {
        mapping(address token => RewardAccount) storage accounts = _accounts[config.payee][config.payeeAuthorizer];
        Defence storage best = _defences[id];
        if (best.beneficiary != address(0)) accounts[best.token].balance += best.reward;
        RewardAccount storage found = accounts[appointment.token];
        if (appointment.reward > found.balance) revert RewardUncovered(found.balance, appointment.reward);
        found.balance -= appointment.reward;
        // Checked above against what 96 bits hold.
        (best.beneficiary, best.reward, best.token) = (beneficiary, uint96(appointment.reward), appointment.token);
    }

    function _requireRecipient(address recipient) private view {
        if (recipient == address(0) || recipient == address(this)) revert RecipientInvalid(recipient);
    }
}
