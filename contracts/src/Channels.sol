// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC3009} from "@openzeppelin/contracts/interfaces/draft-IERC3009.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {IChannels} from "./interfaces/IChannels.sol";
import {Digests} from "./libraries/Digests.sol";
import {PackedClaims} from "./libraries/PackedClaims.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {ChannelConfig, ChannelState, Claim, Status} from "./types/Channel.sol";
import {AMOUNT_MAX, ChannelSlot, openSlot} from "./types/ChannelSlot.sol";

/// @title Sparewire's payment channels, version 1. What each function means is said in `IChannels`.
/// @dev Functions that call a token are `nonReentrant`. Those that only move money between the mappings below are
/// `nonReentrantView`: they call nobody, so they need not lock, but they stay shut while a token call is under way.
contract Channels is IChannels, EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// Long enough for a payee that looks in now and then, or for its watchtower.
    uint40 public constant WITHDRAW_DELAY_MIN = 15 minutes;
    uint40 public constant WITHDRAW_DELAY_MAX = 30 days;

    mapping(bytes32 channelId => ChannelSlot) private _channels;
    mapping(address payer => mapping(address token => uint256)) private _deposits;
    mapping(address payee => mapping(address token => uint256)) private _claimable;

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
        IERC3009(token)
            .receiveWithAuthorization(payer, address(this), amount, validAfter, validBefore, nonce, v, r, s);
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
    function open(ChannelConfig calldata config, uint128 amount) external nonReentrantView {
        _open(_domainSeparatorV4(), config, amount);
    }

    /// @inheritdoc IChannels
    function openBatch(ChannelConfig[] calldata configs, uint128[] calldata amounts) external nonReentrantView {
        if (configs.length != amounts.length) revert LengthsDiffer(configs.length, amounts.length);
        bytes32 separator = _domainSeparatorV4();
        for (uint256 i = 0; i < configs.length; ++i) {
            _open(separator, configs[i], amounts[i]);
        }
    }

    /// @inheritdoc IChannels
    function topUp(ChannelConfig calldata config, uint128 amount) external nonReentrantView {
        if (msg.sender != config.payer) revert SenderNotPayer(msg.sender, config.payer);
        if (amount == 0) revert AmountZero();
        bytes32 id = _id(config);
        ChannelSlot slot = _openSlotOf(id);
        uint256 reserved = slot.reserved() + amount;
        if (reserved > AMOUNT_MAX) revert AmountTooLarge(reserved);
        _takeDeposit(config.payer, config.token, amount);
        _channels[id] = slot.withReserved(reserved);
        emit ToppedUp(id, config.payer, config.payee, amount, uint128(reserved));
    }

    /// @inheritdoc IChannels
    function claim(Claim[] calldata claims) external nonReentrantView {
        bytes32 separator = _domainSeparatorV4();
        for (uint256 i = 0; i < claims.length; ++i) {
            bytes32 id = Digests.channelId(separator, claims[i].config);
            _claim(separator, id, _channels[id], claims[i]);
        }
    }

    /// @inheritdoc IChannels
    function claimPacked(bytes calldata data) external nonReentrantView {
        (address payee, address token, uint256 credited) = _claimPacked(data);
        if (credited != 0) _claimable[payee][token] += credited;
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
        bytes32 separator = _domainSeparatorV4();
        ChannelConfig calldata config = last.config;
        bytes32 id = Digests.channelId(separator, config);
        ChannelSlot slot = _channels[id];
        if (slot.status() == Status.None) revert ChannelUnknown(id);
        if (slot.status() == Status.Closed) revert ChannelClosed(id);
        if (msg.sender != config.payee && (msg.sender != config.payeeAuthorizer || msg.sender == address(0))) {
            bytes32 digest = Digests.cooperativeClose(separator, id, last.amount);
            if (!Signatures.isSignedBySide(config.payeeAuthorizer, config.payee, digest, payeeSignature)) {
                revert CloseSignatureInvalid(id);
            }
        }
        // Whether or not the voucher was news, at least `last.amount` is credited after this.
        _close(id, config, _claim(separator, id, slot, last));
    }

    /// @inheritdoc IChannels
    function startClose(ChannelConfig calldata config) external nonReentrantView {
        if (msg.sender != config.payer) revert SenderNotPayer(msg.sender, config.payer);
        bytes32 id = _id(config);
        ChannelSlot slot = _openSlotOf(id);
        uint40 closeAt = uint40(block.timestamp) + config.withdrawDelay;
        _channels[id] = slot.withCloseAt(closeAt);
        emit CloseStarted(id, config.payer, config.payee, closeAt);
    }

    /// @inheritdoc IChannels
    function finishClose(ChannelConfig calldata config) external nonReentrantView {
        bytes32 id = _id(config);
        ChannelSlot slot = _channels[id];
        Status status = slot.status();
        if (status == Status.None) revert ChannelUnknown(id);
        if (status == Status.Open) revert ChannelNotClosing(id);
        if (status == Status.Closed) revert ChannelClosed(id);
        if (block.timestamp < slot.closeAt()) revert CloseTooEarly(id, slot.closeAt());
        _close(id, config, slot);
    }

    // Views

    /// @inheritdoc IChannels
    function channelId(ChannelConfig calldata config) external view returns (bytes32) {
        return _id(config);
    }

    /// @inheritdoc IChannels
    function channel(bytes32 id) external view returns (ChannelState memory) {
        return _channels[id].unpack();
    }

    /// @inheritdoc IChannels
    function depositOf(address payer, address token) external view returns (uint256) {
        return _deposits[payer][token];
    }

    /// @inheritdoc IChannels
    function claimableOf(address payee, address token) external view returns (uint256) {
        return _claimable[payee][token];
    }

    /// @inheritdoc IChannels
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    /// @inheritdoc IChannels
    function voucherDigest(bytes32 id, uint128 amount) external view returns (bytes32) {
        return Digests.voucher(_domainSeparatorV4(), id, amount);
    }

    /// @inheritdoc IChannels
    function cooperativeCloseDigest(bytes32 id, uint128 amount) external view returns (bytes32) {
        return Digests.cooperativeClose(_domainSeparatorV4(), id, amount);
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
        _deposits[payer][token] += received;
        emit Deposited(payer, token, from, received);
    }

    function _takeDeposit(address payer, address token, uint256 amount) private {
        uint256 available = _deposits[payer][token];
        if (amount > available) revert DepositTooSmall(payer, token, available, amount);
        unchecked {
            _deposits[payer][token] = available - amount;
        }
    }

    function _open(bytes32 separator, ChannelConfig calldata config, uint128 amount) private {
        if (msg.sender != config.payer) revert SenderNotPayer(msg.sender, config.payer);
        if (amount == 0) revert AmountZero();
        if (amount > AMOUNT_MAX) revert AmountTooLarge(amount);
        if (config.token == address(0)) revert TokenInvalid(config.token);
        _requireRecipient(config.payee);
        if (config.withdrawDelay < WITHDRAW_DELAY_MIN || config.withdrawDelay > WITHDRAW_DELAY_MAX) {
            revert WithdrawDelayInvalid(config.withdrawDelay);
        }
        bytes32 id = Digests.channelId(separator, config);
        if (_channels[id].status() != Status.None) revert ChannelExists(id);
        _takeDeposit(config.payer, config.token, amount);
        _channels[id] = openSlot(amount);
        emit Opened(
            id,
            config.payer,
            config.payee,
            config.payerAuthorizer,
            config.payeeAuthorizer,
            config.token,
            config.withdrawDelay,
            config.salt,
            amount
        );
    }

    /// Credits what is new in one voucher. The twin of the loop in `_claimPacked`.
    function _claim(bytes32 separator, bytes32 id, ChannelSlot slot, Claim calldata entry)
        private
        returns (ChannelSlot)
    {
        Status status = slot.status();
        if (status == Status.None) revert ChannelUnknown(id);
        uint256 claimed = slot.claimed();
        if (status == Status.Closed || entry.amount <= claimed) return slot;
        if (entry.amount > slot.reserved()) revert AmountAboveReserved(id, entry.amount, slot.reserved());
        ChannelConfig calldata config = entry.config;
        bytes32 digest = Digests.voucher(separator, id, entry.amount);
        if (!Signatures.isSignedBySide(config.payerAuthorizer, config.payer, digest, entry.signature)) {
            revert VoucherSignatureInvalid(id);
        }
        slot = slot.withClaimed(entry.amount);
        _channels[id] = slot;
        _claimable[config.payee][config.token] += entry.amount - claimed;
        emit Claimed(id, config.payee, config.token, entry.amount);
        return slot;
    }

    /// The twin of `_claim` for packed entries. The caller credits `credited` to the payee.
    function _claimPacked(bytes calldata data) private returns (address payee, address token, uint256 credited) {
        bytes memory log = PackedClaims.openLog(PackedClaims.count(data));
        payee = PackedClaims.payee(data);
        token = PackedClaims.token(data);
        PackedClaims.Scratch scratch = PackedClaims.prepare(data, _domainSeparatorV4());
        uint256 position;
        uint256 end;
        assembly ("memory-safe") {
            position := add(data.offset, 65)
            end := add(data.offset, data.length)
        }
        // No sum or position here can overflow: amounts have 104 bits, and there are fewer entries than bytes of calldata.
        unchecked {
            for (; position < end; position += PackedClaims.ENTRY_LENGTH) {
                (bytes32 id, uint256 amount) = PackedClaims.channel(scratch, position);
                ChannelSlot slot = _channels[id];
                Status status = slot.status();
                if (status == Status.None) revert ChannelUnknown(id);
                uint256 claimed = slot.claimed();
                if (status == Status.Closed || amount <= claimed) continue;
                if (amount > slot.reserved()) revert AmountAboveReserved(id, amount, slot.reserved());
                (bytes32 digest, address authorizer, bytes32 r, bytes32 vs) =
                    PackedClaims.voucher(scratch, position, id, amount);
                (address signer,,) = ECDSA.tryRecover(digest, r, vs);
                if (signer == address(0) || signer != authorizer) revert VoucherSignatureInvalid(id);
                _channels[id] = slot.withClaimed(amount);
                credited += amount - claimed;
                PackedClaims.append(log, id, amount);
            }
        }
        if (credited != 0) emit ClaimedBatch(payee, token, log);
    }

    /// Sends the payee what it had to get before and `more`.
    function _sweep(address payee, address token, uint256 more) private returns (uint256 amount) {
        amount = _claimable[payee][token];
        if (amount != 0) _claimable[payee][token] = 0;
        amount += more;
        if (amount == 0) return 0;
        emit Swept(payee, token, amount);
        IERC20(token).safeTransfer(payee, amount);
    }

    /// Closes for good and gives back what is not claimed. The caller has checked that `slot` is open or closing.
    function _close(bytes32 id, ChannelConfig calldata config, ChannelSlot slot) private {
        uint256 refunded = slot.reserved() - slot.claimed();
        _channels[id] = slot.withClosed();
        if (refunded != 0) _deposits[config.payer][config.token] += refunded;
        emit Closed(id, config.payer, config.payee, uint128(slot.claimed()), uint128(refunded));
    }

    // What is asked again and again

    function _id(ChannelConfig calldata config) private view returns (bytes32) {
        return Digests.channelId(_domainSeparatorV4(), config);
    }

    function _openSlotOf(bytes32 id) private view returns (ChannelSlot slot) {
        slot = _channels[id];
        Status status = slot.status();
        if (status == Status.None) revert ChannelUnknown(id);
        if (status != Status.Open) revert ChannelNotOpen(id);
    }

    function _requireRecipient(address recipient) private view {
        if (recipient == address(0) || recipient == address(this)) revert RecipientInvalid(recipient);
    }
}
