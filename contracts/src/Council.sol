// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";

import {ICouncil} from "./interfaces/ICouncil.sol";

/// @title Sparewire's council, version 1. What each function means is said in `ICouncil`.
contract Council is ICouncil, TimelockController {
    /// @inheritdoc ICouncil
    bytes32 public constant MEMBER_ROLE = keccak256("MEMBER_ROLE");
    /// @inheritdoc ICouncil
    uint256 public constant DELAY_MIN = 48 hours;
    /// @inheritdoc ICouncil
    uint256 public immutable THRESHOLD;

    mapping(bytes32 operation => address[]) private _approvers;

    constructor(address[] memory members, uint256 threshold)
        TimelockController(DELAY_MIN, new address[](0), new address[](1), address(0))
    {
        if (threshold == 0 || threshold > members.length) revert MembersInvalid();
        THRESHOLD = threshold;
        for (uint256 i = 0; i < members.length; ++i) {
            if (!_grantRole(MEMBER_ROLE, members[i])) revert MembersInvalid();
        }
        _grantRole(PROPOSER_ROLE, address(this));
    }

    /// @inheritdoc ICouncil
    function approve(address target, bytes calldata data, bytes32 salt) external onlyRole(MEMBER_ROLE) {
        bytes32 operation = hashOperation(target, 0, data, 0, salt);
        address[] storage approved = _approvers[operation];
        uint256 count = 1;
        for (uint256 i = 0; i < approved.length; ++i) {
            if (approved[i] == msg.sender) revert ApprovedAlready(operation, msg.sender);
            if (hasRole(MEMBER_ROLE, approved[i])) ++count;
        }
        approved.push(msg.sender);
        emit Approved(operation, msg.sender, target, data, salt);
        if (count >= THRESHOLD && !isOperation(operation)) this.schedule(target, 0, data, 0, salt, getMinDelay());
    }

    /// @inheritdoc ICouncil
    function approvers(bytes32 operation) external view returns (address[] memory) {
        return _approvers[operation];
    }

    /// @inheritdoc TimelockController
    function updateDelay(uint256 newDelay) public override {
        if (newDelay < DELAY_MIN) revert DelayTooShort(newDelay);
        super.updateDelay(newDelay);
    }
}
