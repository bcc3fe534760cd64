// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IBonds} from "./interfaces/IBonds.sol";
import {Bond} from "./types/Evidence.sol";

/// @title What `Stake` and `Arbitration` share. What each function means is said in `IBonds`.
/// @dev Money moves here only: `_lock` and `_unlock` say what must stay. At any moment
/// `locked <= amount` for each holder, and the contract holds the sum of all amounts.
abstract contract Bonds is IBonds, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @inheritdoc IBonds
    uint40 public constant UNBONDING = 30 days;
    /// @inheritdoc IBonds
    address public constant BURNED = 0x000000000000000000000000000000000000dEaD;
    /// @inheritdoc IBonds
    address public immutable TOKEN;

    mapping(address holder => Bond) private _bonds;

    constructor(address token) {
        TOKEN = token;
    }

    /// @inheritdoc IBonds
    function bond(address holder, uint128 amount) external nonReentrant {
        if (amount == 0) revert AmountZero();
        _requireRecipient(holder);
        uint256 before = IERC20(TOKEN).balanceOf(address(this));
        IERC20(TOKEN).safeTransferFrom(msg.sender, address(this), amount);
        uint256 balance = IERC20(TOKEN).balanceOf(address(this));
        if (balance <= before) revert NothingReceived(TOKEN);
        uint256 bonded = _add(holder, balance - before);
        emit Bonded(holder, msg.sender, balance - before, bonded);
    }

    /// @inheritdoc IBonds
    function announceLeaving(uint128 amount) external nonReentrantView {
        Bond storage found = _bonds[msg.sender];
        uint40 due = amount == 0 ? 0 : uint40(block.timestamp) + UNBONDING;
        (found.leaving, found.due) = (amount, due);
        emit LeavingAnnounced(msg.sender, amount, due);
    }

    /// @inheritdoc IBonds
    function unbond(address to) external nonReentrant returns (uint256 amount) {
        _requireRecipient(to);
        Bond storage found = _bonds[msg.sender];
        if (found.due == 0 || block.timestamp < found.due) revert UnbondingTooEarly(found.due);
        uint128 free = found.amount - found.locked;
        if (free == 0 && found.locked != 0) revert BondLocked(found.locked);
        uint128 leaving = found.leaving < free ? found.leaving : free;
        if (leaving == 0) revert AmountZero();
        found.amount -= leaving;
        (found.leaving, found.due) = (0, 0);
        emit Unbonded(msg.sender, to, leaving);
        IERC20(TOKEN).safeTransfer(to, leaving);
        return leaving;
    }

    /// @inheritdoc IBonds
    function bondOf(address holder) external view returns (Bond memory) {
        return _bonds[holder];
    }

    /// @inheritdoc IBonds
    function covered(address holder) external view returns (uint256) {
        Bond storage found = _bonds[holder];
        uint256 free = found.amount - found.locked;
        return free > found.leaving ? free - found.leaving : 0;
    }

    /// What of a bond no dispute holds.
    function _free(address holder) internal view returns (uint256) {
        return _bonds[holder].amount - _bonds[holder].locked;
    }

    /// The caller has checked that so much is free.
    function _lock(address holder, uint128 amount) internal {
        _bonds[holder].locked += amount;
    }

    function _unlock(address holder, uint128 amount) internal {
        _bonds[holder].locked -= amount;
    }

    /// Takes up to `amount` out of what is free of `holder`'s bond.
    function _take(address holder, uint256 amount) internal returns (uint256 taken) {
        uint256 free = _free(holder);
        taken = amount < free ? amount : free;
        _bonds[holder].amount -= uint128(taken);
    }

    function _add(address holder, uint256 amount) internal returns (uint256 bonded) {
        bonded = _bonds[holder].amount + amount;
        if (bonded > type(uint128).max) revert BondTooLarge(bonded);
        _bonds[holder].amount = uint128(bonded);
    }

    function _pay(address to, uint256 amount) internal {
        if (amount != 0) IERC20(TOKEN).safeTransfer(to, amount);
    }

    function _requireRecipient(address recipient) internal view {
        if (recipient == address(0) || recipient == address(this)) revert RecipientInvalid(recipient);
    }
}
