// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Complaint} from "../types/Complaint.sol";
import {IBonds} from "./IBonds.sol";

/// @title Complaints that no contract can check, such as reports of canaries.
/// @notice Whoever wants to be held to its word bonds money here, and so does who complains about it. A complaint locks `PRICE`
/// of either bond. The accused answers; the arbiter decides; the loser may appeal, which locks `PRICE` of its bond once more,
/// and the court of appeal has the last word. Who loses in the end loses `PRICE`, and twice that where the court turned its own
/// appeal down; all else is unlocked. Half of what is lost, rounded down, goes to the other's bond, the rest is burned.
/// Where nobody answers, the complaint counts as upheld, and can be appealed; where the arbiter says nothing, it lapses;
/// where the court says nothing, the ruling stands.
/// @dev Arbiter and court are fixed when the contract is made. All that they can do is to call `rule` about complaints that
/// are before them: they have no rights over bonds beyond what a complaint locked, none in `Stake`, and none in
/// `Channels`. Money moves between bonds and to `BURNED` only, so nobody can hold a complaint up by refusing a payment. Locked
/// money stays until its complaint is over, whatever was announced, so no unbonding is faster than a complaint.
interface IArbitration is IBonds {
    /// @notice Somebody complained. `report` is the hash of what it shows to the arbiter.
    event Complained(uint256 indexed id, address indexed accused, address indexed claimant, bytes32 report);

    /// @notice The accused answered. `reply` is the hash of what it shows to the arbiter.
    event Answered(uint256 indexed id, bytes32 reply);

    /// @notice There is a ruling, by somebody or (where `by` is zero) by default. It can be appealed until `until` (seconds), if
    /// that is not zero.
    event Ruled(uint256 indexed id, address indexed by, bool upheld, uint40 until);

    /// @notice The loser appealed.
    event Appealed(uint256 indexed id, address indexed by);

    /// @notice A complaint is over. `loser` lost `lost`, of which half went to the other's bond; nobody did if it lapsed.
    event Settled(uint256 indexed id, address indexed loser, uint256 lost);

    /// @notice Nobody complains about itself.
    error AccusedIsClaimant(address accused);
    /// @notice The free bond does not cover what is to be locked.
    error BondTooSmall(address holder, uint256 free, uint256 needed);
    /// @notice That is not what this complaint waits for.
    error StageWrong(uint256 id);
    /// @notice The sender has no say in this.
    error SenderHasNoSay(uint256 id, address sender);
    /// @notice The time for this is over since `deadline` (seconds).
    error TooLate(uint256 id, uint40 deadline);
    /// @notice There is time until `deadline` (seconds).
    error TooEarly(uint256 id, uint40 deadline);
    /// @notice An arbiter or a price is missing.
    error ParameterMissing();

    /// @notice Complains about `accused`. Both must have `PRICE` free in their bonds.
    function complain(address accused, bytes32 report) external returns (uint256 id);

    /// @notice The accused answers within `ANSWER_PERIOD`.
    function answer(uint256 id, bytes32 reply) external;

    /// @notice The arbiter, or after an appeal the court, decides within `RULING_PERIOD`. The court's word is the last.
    function rule(uint256 id, bool upheld) external;

    /// @notice The loser of a ruling appeals within `APPEAL_PERIOD`; it must have `PRICE` free in its bond.
    function appeal(uint256 id) external;

    /// @notice Goes on where somebody's time is over: a complaint without an answer is upheld by default, one without a ruling
    /// lapses, a ruling that was not appealed, or whose appeal was not decided, is carried out. Anybody may.
    function settle(uint256 id) external;

    /// @notice Where a complaint stands.
    function complaint(uint256 id) external view returns (Complaint memory);

    /// @notice How many there have been. Their ids are 1 to this.
    function complaints() external view returns (uint256);

    /// @notice What a complaint locks of each side's bond, and an appeal of the loser's once more.
    function PRICE() external view returns (uint128);

    /// @notice Who decides first.
    function ARBITER() external view returns (address);

    /// @notice Who decides appeals.
    function COURT() external view returns (address);

    /// @notice Seconds to answer: 7 days.
    function ANSWER_PERIOD() external view returns (uint40);

    /// @notice Seconds to rule: 14 days.
    function RULING_PERIOD() external view returns (uint40);

    /// @notice Seconds to appeal: 7 days.
    function APPEAL_PERIOD() external view returns (uint40);
}
