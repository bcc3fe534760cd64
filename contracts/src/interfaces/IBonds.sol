// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Bond} from "../types/Evidence.sol";

/// @title Money that somebody puts at stake, in one token.
/// @notice It can be taken back `UNBONDING` seconds after that was announced, what a dispute holds excepted. Until it is
/// taken back it is at stake.
/// @dev Amounts are in the token's smallest unit. A token that takes a fee is credited with what arrived.
interface IBonds {
    /// @notice Money was bonded for `holder`, who has `bonded` in all.
    event Bonded(address indexed holder, address indexed from, uint256 amount, uint256 bonded);

    /// @notice `amount` may be withdrawn from `due` (seconds) on.
    event LeavingAnnounced(address indexed holder, uint128 amount, uint40 due);

    /// @notice Money went back.
    event Unbonded(address indexed holder, address indexed to, uint256 amount);

    /// @notice An amount of zero makes no sense here.
    error AmountZero();
    /// @notice A bond is at most 2^128 - 1.
    error BondTooLarge(uint256 amount);
    /// @notice The token moved nothing.
    error NothingReceived(address token);
    /// @notice Money cannot go there: the zero address, or this contract.
    error RecipientInvalid(address recipient);
    /// @notice Nothing is announced, or its time has not come (then `due` is not zero).
    error UnbondingTooEarly(uint40 due);
    /// @notice Disputes hold all that is there.
    error BondLocked(uint256 locked);

    /// @notice Takes `amount` of the token from the sender into `holder`'s bond.
    function bond(address holder, uint128 amount) external;

    /// @notice The sender will withdraw up to `amount` of its bond in `UNBONDING` seconds or later. This replaces what was
    /// announced before, its time too; zero takes it back.
    function announceLeaving(uint128 amount) external;

    /// @notice Sends `to` what was announced, or what is left of it and not locked.
    /// @return amount What was sent.
    function unbond(address to) external returns (uint256 amount);

    /// @notice Where a bond stands.
    function bondOf(address holder) external view returns (Bond memory);

    /// @notice What of a bond is neither locked nor announced: what others can rely on for `UNBONDING` seconds, save for
    /// slashing by others.
    function covered(address holder) external view returns (uint256);

    /// @notice Seconds between an announcement and the withdrawal: 30 days.
    function UNBONDING() external view returns (uint40);

    /// @notice The token of all bonds here.
    function TOKEN() external view returns (address);

    /// @notice Where burned money goes, as not every token can be burned: 0x…dEaD, whose key nobody has.
    function BURNED() external view returns (address);
}
