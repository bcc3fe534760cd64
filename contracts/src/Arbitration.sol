// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Bonds} from "./Bonds.sol";
import {IArbitration} from "./interfaces/IArbitration.sol";
import {Complaint, Stage} from "./types/Complaint.sol";

/// @title Sparewire's arbitration, version 1. What each function means is said in `IArbitration`.
/// @dev A complaint that is not over locks PRICE of both bonds, and one that was appealed PRICE of the loser's once more.
contract Arbitration is IArbitration, Bonds {
    /// @inheritdoc IArbitration
    uint40 public constant ANSWER_PERIOD = 7 days;
    /// @inheritdoc IArbitration
    uint40 public constant RULING_PERIOD = 14 days;
    /// @inheritdoc IArbitration
    uint40 public constant APPEAL_PERIOD = 7 days;
    /// @inheritdoc IArbitration
    address public immutable ARBITER;
    /// @inheritdoc IArbitration
    address public immutable COURT;
    /// @inheritdoc IArbitration
    uint128 public immutable PRICE;

    /// @inheritdoc IArbitration
    uint256 public complaints;
    mapping(uint256 id => Complaint) private _complaints;

    constructor(address token, address arbiter, address court, uint128 price) Bonds(token) {
        if (arbiter == address(0) || court == address(0) || price == 0) revert ParameterMissing();
        (ARBITER, COURT, PRICE) = (arbiter, court, price);
    }

    /// @inheritdoc IArbitration
    function complain(address accused, bytes32 report) external nonReentrantView returns (uint256 id) {
        if (accused == msg.sender) revert AccusedIsClaimant(accused);
        _lockPrice(msg.sender);
        _lockPrice(accused);
        id = ++complaints;
        _complaints[id] = Complaint(msg.sender, _until(ANSWER_PERIOD), Stage.Complained, false, accused);
        emit Complained(id, accused, msg.sender, report);
    }

    /// @inheritdoc IArbitration
    function answer(uint256 id, bytes32 reply) external nonReentrantView {
        Complaint storage found = _waiting(id, Stage.Complained, _complaints[id].accused);
        (found.stage, found.deadline) = (Stage.Answered, _until(RULING_PERIOD));
        emit Answered(id, reply);
    }

    /// @inheritdoc IArbitration
    function rule(uint256 id, bool upheld) external nonReentrant {
        if (_complaints[id].stage == Stage.Appealed) {
            Complaint storage appealed = _waiting(id, Stage.Appealed, COURT);
            emit Ruled(id, msg.sender, upheld, 0);
            _carryOut(id, appealed, upheld, upheld == appealed.upheld);
        } else {
            _ruled(id, _waiting(id, Stage.Answered, ARBITER), msg.sender, upheld);
        }
    }

    /// @inheritdoc IArbitration
    function appeal(uint256 id) external nonReentrantView {
        Complaint storage found = _waiting(id, Stage.Ruled, _loser(_complaints[id], _complaints[id].upheld));
        _lockPrice(msg.sender);
        (found.stage, found.deadline) = (Stage.Appealed, _until(RULING_PERIOD));
        emit Appealed(id, msg.sender);
    }

    /// @inheritdoc IArbitration
    function settle(uint256 id) external nonReentrant {
        Complaint storage found = _complaints[id];
        Stage stage = found.stage;
        if (stage == Stage.None || stage == Stage.Over) revert StageWrong(id);
        if (block.timestamp <= found.deadline) revert TooEarly(id, found.deadline);
        if (stage == Stage.Complained) {
            _ruled(id, found, address(0), true);
        } else if (stage == Stage.Answered) {
            found.stage = Stage.Over;
            _unlock(found.claimant, PRICE);
            _unlock(found.accused, PRICE);
            emit Settled(id, address(0), 0);
        } else {
            if (stage == Stage.Appealed) _unlock(_loser(found, found.upheld), PRICE);
            _carryOut(id, found, found.upheld, false);
        }
    }

    /// @inheritdoc IArbitration
    function complaint(uint256 id) external view returns (Complaint memory) {
        return _complaints[id];
    }

    function _ruled(uint256 id, Complaint storage found, address by, bool upheld) private {
        uint40 until = _until(APPEAL_PERIOD);
        (found.stage, found.upheld, found.deadline) = (Stage.Ruled, upheld, until);
        emit Ruled(id, by, upheld, until);
    }

    /// Ends a complaint. `appealLost`: who loses it has locked its price twice, and loses both. Where an appeal was won,
    /// the winner's second price is free again.
    function _carryOut(uint256 id, Complaint storage found, bool upheld, bool appealLost) private {
        address loser = _loser(found, upheld);
        address winner = _loser(found, !upheld);
        bool appealWon = found.stage == Stage.Appealed && upheld != found.upheld;
        (found.stage, found.upheld) = (Stage.Over, upheld);
        uint128 lost = appealLost ? 2 * PRICE : PRICE;
        _unlock(winner, appealWon ? 2 * PRICE : PRICE);
        _unlock(loser, lost);
        // What was locked is there: locked <= amount.
        assert(_take(loser, lost) == lost);
        _add(winner, lost / 2);
        emit Settled(id, loser, lost);
        _pay(BURNED, lost - lost / 2);
    }

    /// The complaint, if it is at `stage`, the sender's turn, and in time.
    function _waiting(uint256 id, Stage stage, address whose) private view returns (Complaint storage found) {
        found = _complaints[id];
        if (found.stage != stage) revert StageWrong(id);
        if (msg.sender != whose) revert SenderHasNoSay(id, msg.sender);
        if (block.timestamp > found.deadline) revert TooLate(id, found.deadline);
    }

    function _loser(Complaint storage found, bool upheld) private view returns (address) {
        return upheld ? found.accused : found.claimant;
    }

    function _lockPrice(address holder) private {
        uint256 free = _free(holder);
        if (free < PRICE) revert BondTooSmall(holder, free, PRICE);
        _lock(holder, PRICE);
    }

    function _until(uint40 period) private view returns (uint40) {
        return uint40(block.timestamp) + period;
    }
}
