// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC3009} from "@openzeppelin/contracts/interfaces/draft-IERC3009.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {IChannels} from "./interfaces/IChannels.sol";
import {Digests} from "./libraries/Digests.sol";
import {Opening} from "./libraries/Opening.sol";
import {PackedClaims} from "./libraries/PackedClaims.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {Balance, claimableAt, depositAt} from "./types/Balance.sol";
import {ChannelConfig, ChannelState, Claim} from "./types/Channel.sol";
import {AMOUNT_MAX, Channel, ChannelSlot, channelAt} from "./types/ChannelSlot.sol";
import {CheckedConfig} from "./types/CheckedConfig.sol";

/// @title Sparewire's payment channels, version 1. What each function means is said in `IChannels`.
/// @dev Functions that call a token are `nonReentrant`. The others call nobody (save that an EIP-1271 wallet is asked,
/// statically) and only move money between balances and channels. They are right at every moment of a token call too,
/// yet stay shut meanwhile (`nonReentrantView`); only opening, which has no gas to spare for that, does not.
/// Where things are in storage is said in `types/`: channels by id, balances by holder and token.
contract Channels is IChannels, EIP712, ReentrancyGuardTransient, Multicall {
    using SafeERC20 for IERC20;

    uint256 private immutable CHAIN_ID = block.chainid;
    bytes32 private immutable SEPARATOR = _domainSeparatorV4();

    constructor() EIP712("Sparewire Channels", "1") {}

    // Deposits

    /// @inheritdoc IChannels
    function deposit(address token, uint128 amount) external nonReentrant {
        _depositFrom(msg.sender, msg.sender, token, amount);
    }

    /// @inheritdoc IChannels
    function depositFor(address payer, address token, uint128 amount) external nonReentrant {
        _depositFrom(msg.sender, payer, token, amount);
    }

    /// @inheritdoc IChannels
    function depositWithPermit(address token, uint128 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
        nonReentrant
    {
        try IERC20Permit(token).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        _depositFrom(msg.sender, msg.sender, token, amount);
    }

    /// @inheritdoc IChannels
    function depositWithAuthorization(
        address payer,
        address token,
        uint128 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external nonReentrant {
        if (amount == 0) revert AmountZero();
        if (signature.length != 65 && signature.length != 64) revert SignatureLengthInvalid(signature.length);
        (uint8 v, bytes32 r, bytes32 s) = ECDSA.parseCalldata(signature);
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC3009(token).receiveWithAuthorization(payer, address(this), amount, validAfter, validBefore, nonce, v, r, s);
        _creditReceived(payer, payer, token, before);
    }

    /// @inheritdoc IChannels
    function withdraw(address token, uint128 amount, address to) external nonReentrant {
        if (amount == 0) revert AmountZero();
        _requireRecipient(to);
        _takeDeposit(msg.sender, token, amount);
        emit Withdrawn(msg.sender, token, to, amount);
        IERC20(token).safeTransfer(to, amount);
    }

    // Channels

    /// @inheritdoc IChannels
    function open(ChannelConfig calldata config, uint128 amount) external {
        Opening.open(_separator(), config, amount);
    }

    /// @inheritdoc IChannels
    function openBatch(ChannelConfig[] calldata configs, uint128[] calldata amounts) external {
        if (configs.length != amounts.length) revert LengthsDiffer(configs.length, amounts.length);
        bytes32 separator = _separator();
        for (uint256 i = 0; i < configs.length; ++i) {
            Opening.open(separator, configs[i], amounts[i]);
        }
    }

    /// @inheritdoc IChannels
    function topUp(ChannelConfig calldata source, uint128 amount) external nonReentrantView {
        (bytes32 id, CheckedConfig config, Channel storage found) = _find(source);
        _requirePayer(config.payer());
        if (amount == 0) revert AmountZero();
        _requireOpen(id, found.slot);
        uint256 reserved = found.slot.reserved() + amount;
        if (reserved > AMOUNT_MAX) revert AmountTooLarge(reserved);
        _takeDeposit(config.payer(), config.token(), amount);
        found.slot = found.slot.withReserved(reserved);
        emit ToppedUp(id, config.payer(), config.payee(), amount, uint128(reserved));
    }

    /// @inheritdoc IChannels
    function claim(Claim[] calldata claims) external nonReentrantView {
        bytes32 separator = _separator();
        for (uint256 i = 0; i < claims.length; ++i) {
            (bytes32 id, CheckedConfig config) = Digests.channelId(separator, claims[i].config);
            _claim(separator, id, config, channelAt(id), claims[i]);
        }
    }

    /// @inheritdoc IChannels
    function claimPacked(bytes calldata data) external nonReentrantView {
        (address payee, address token, uint256 credited) = _claimPacked(data);
        if (credited != 0) claimableAt(payee, token).amount += credited;
    }

    /// @inheritdoc IChannels
    function claimPackedAndSweep(bytes calldata data) external nonReentrant {
        (address payee, address token, uint256 credited) = _claimPacked(data);
        _sweep(payee, token, credited);
    }

    /// @inheritdoc IChannels
    function sweep(address payee, address token) external nonReentrant returns (uint256) {
        return _sweep(payee, token, 0);
    }

    /// @inheritdoc IChannels
    function closeCooperatively(Claim calldata last, bytes calldata payeeSignature) external nonReentrantView {
        (bytes32 id, CheckedConfig config, Channel storage found) = _find(last.config);
        if (found.slot.isNone()) revert ChannelUnknown(id);
        if (found.slot.isClosed()) revert ChannelClosed(id);
        bytes32 separator = _separator();
        // The zero address sends nothing on a chain, but it is who a node simulates for unless told otherwise.
        bool sentByPayee =
            msg.sender != address(0) && (msg.sender == config.payee() || msg.sender == config.payeeAuthorizer());
        if (!sentByPayee) {
            bytes32 digest = Digests.cooperativeClose(separator, id, last.amount);
            if (!Signatures.isSignedBySide(config.payeeAuthorizer(), config.payee(), digest, payeeSignature)) {
                revert CloseSignatureInvalid(id);
            }
        }
        // Whether or not the voucher is news, at least `last.amount` is credited after this.
        _claim(separator, id, config, found, last);
        _close(id, config, found);
    }

    /// @inheritdoc IChannels
    function startClose(ChannelConfig calldata source) external nonReentrantView {
        (bytes32 id, CheckedConfig config, Channel storage found) = _find(source);
        _requirePayer(config.payer());
        _requireOpen(id, found.slot);
        uint40 closeAt = uint40(block.timestamp) + config.withdrawDelay();
        found.slot = found.slot.withCloseAt(closeAt);
        emit CloseStarted(id, config.payer(), config.payee(), closeAt);
    }

    /// @inheritdoc IChannels
    function finishClose(ChannelConfig calldata source) external nonReentrantView {
        (bytes32 id, CheckedConfig config, Channel storage found) = _find(source);
        ChannelSlot slot = found.slot;
        if (slot.isNone()) revert ChannelUnknown(id);
        if (slot.isOpen()) revert ChannelNotClosing(id);
        if (slot.isClosed()) revert ChannelClosed(id);
        if (block.timestamp < slot.closeAt()) revert CloseTooEarly(id, slot.closeAt());
        _close(id, config, found);
    }

    // Several at once

    /// @inheritdoc IChannels
    function multicall(bytes[] calldata calls) public override(IChannels, Multicall) returns (bytes[] memory) {
        return super.multicall(calls);
    }

    // Views

    /// @inheritdoc IChannels
    function channelId(ChannelConfig calldata config) external view returns (bytes32 id) {
        (id,) = Digests.channelId(_separator(), config);
    }

    /// @inheritdoc IChannels
    function channel(bytes32 id) external view returns (ChannelState memory) {
        return channelAt(id).slot.unpack();
    }

    /// @inheritdoc IChannels
    function depositOf(address payer, address token) external view returns (uint256) {
        return depositAt(payer, token).amount;
    }

    /// @inheritdoc IChannels
    function claimableOf(address payee, address token) external view returns (uint256) {
        return claimableAt(payee, token).amount;
    }

    /// @inheritdoc IChannels
    function domainSeparator() external view returns (bytes32) {
        return _separator();
    }

    /// @inheritdoc IChannels
    function voucherDigest(bytes32 id, uint128 amount) external view returns (bytes32) {
        return Digests.voucher(_separator(), id, amount);
    }

    /// @inheritdoc IChannels
    function cooperativeCloseDigest(bytes32 id, uint128 amount) external view returns (bytes32) {
        return Digests.cooperativeClose(_separator(), id, amount);
    }

    // How money moves

    function _depositFrom(address from, address payer, address token, uint128 amount) private {
        if (amount == 0) revert AmountZero();
        _requireRecipient(payer);
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(from, address(this), amount);
        _creditReceived(from, payer, token, before);
    }

    /// Credits what really arrived since the balance was `before`, which is less than was sent if the token takes a fee.
    function _creditReceived(address from, address payer, address token, uint256 before) private {
        uint256 balance = IERC20(token).balanceOf(address(this));
        if (balance <= before) revert NothingReceived(token);
        uint256 received;
        unchecked {
            received = balance - before;
        }
        depositAt(payer, token).amount += received;
        emit Deposited(payer, token, from, received);
    }

    function _takeDeposit(address payer, address token, uint256 amount) private {
        Balance storage balance = depositAt(payer, token);
        uint256 available = balance.amount;
        if (amount > available) revert DepositTooSmall(payer, token, available, amount);
        unchecked {
            balance.amount = available - amount;
        }
    }

    /// Credits what is new in one voucher. The plain twin of `PackedClaims.claim`.
    function _claim(bytes32 separator, bytes32 id, CheckedConfig config, Channel storage found, Claim calldata entry)
        private
    {
        ChannelSlot slot = found.slot;
        if (slot.isNone()) revert ChannelUnknown(id);
        uint256 claimed = slot.claimed();
        if (slot.isClosed() || entry.amount <= claimed) return;
        if (entry.amount > slot.reserved()) revert AmountAboveReserved(id, entry.amount, slot.reserved());
        bytes32 digest = Digests.voucher(separator, id, entry.amount);
        if (!Signatures.isSignedBySide(config.payerAuthorizer(), config.payer(), digest, entry.signature)) {
            revert VoucherSignatureInvalid(id);
        }
        found.slot = slot.withClaimed(entry.amount);
        claimableAt(config.payee(), config.token()).amount += entry.amount - claimed;
        emit Claimed(id, config.payee(), config.token(), entry.amount);
    }

    /// As `_claim`, for packed entries. The caller credits `credited` to the payee.
    function _claimPacked(bytes calldata data) private returns (address payee, address token, uint256 credited) {
        credited = PackedClaims.claim(data, _separator());
        payee = PackedClaims.payee(data);
        token = PackedClaims.token(data);
    }

    /// Sends the payee what it had to get before and `more`.
    function _sweep(address payee, address token, uint256 more) private returns (uint256 amount) {
        Balance storage balance = claimableAt(payee, token);
        amount = balance.amount;
        if (amount != 0) balance.amount = 0;
        amount += more;
        if (amount == 0) return 0;
        emit Swept(payee, token, amount);
        IERC20(token).safeTransfer(payee, amount);
    }

    /// Closes for good and gives back what is not claimed. The caller has checked that the channel is open or closing.
    function _close(bytes32 id, CheckedConfig config, Channel storage found) private {
        ChannelSlot slot = found.slot;
        uint256 refunded = slot.reserved() - slot.claimed();
        found.slot = slot.withClosed();
        if (refunded != 0) depositAt(config.payer(), config.token()).amount += refunded;
        emit Closed(id, config.payer(), config.payee(), uint128(slot.claimed()), uint128(refunded));
    }

    // What is asked again and again

    /// As OpenZeppelin's, without asking whether a proxy runs this code: none does.
    function _separator() private view returns (bytes32) {
        return block.chainid == CHAIN_ID ? SEPARATOR : _domainSeparatorV4();
    }

    function _find(ChannelConfig calldata source)
        private
        view
        returns (bytes32 id, CheckedConfig config, Channel storage found)
    {
        (id, config) = Digests.channelId(_separator(), source);
        found = channelAt(id);
    }

    function _requireOpen(bytes32 id, ChannelSlot slot) private pure {
        if (slot.isNone()) revert ChannelUnknown(id);
        if (!slot.isOpen()) revert ChannelNotOpen(id);
    }

    function _requirePayer(address payer) private view {
        if (msg.sender != payer) revert SenderNotPayer(msg.sender, payer);
    }

    function _requireRecipient(address recipient) private view {
        if (recipient == address(0) || recipient == address(this)) revert RecipientInvalid(recipient);
    }
}
