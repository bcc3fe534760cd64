// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title Several people who decide together, and slowly: an arbiter for `Arbitration`.
/// @notice A call that `THRESHOLD` members approved is made after `DELAY_MIN` seconds (48 hours) at the earliest, by
/// whoever sends `execute`. Who becomes a member, and who is removed, is decided by such calls only. A member may leave at
/// once (`renounceRole`); where fewer than `THRESHOLD` are left, nothing can be approved any more.
/// @dev OpenZeppelin's `TimelockController`, whose only proposer is this contract itself, on approval. Its members have the
/// role `MEMBER_ROLE`.
interface ICouncil {
    /// @notice A member approved a call. `operation` is the timelock's id of it.
    event Approved(bytes32 indexed operation, address indexed member, address target, bytes data, bytes32 salt);

    /// @notice There must be one member at least, each named once, and no more approvals than members.
    error MembersInvalid();
    /// @notice This member approved it before.
    error ApprovedAlready(bytes32 operation, address member);
    /// @notice Calls wait 48 hours at least.
    error DelayTooShort(uint256 delay);

    /// @notice Approves a call. With the last approval that was missing, it is scheduled. Approvals of who is no member any
    /// more do not count.
    function approve(address target, bytes calldata data, bytes32 salt) external;

    /// @notice Who approved a call, in order.
    function approvers(bytes32 operation) external view returns (address[] memory);

    /// @notice How many approvals a call needs.
    function THRESHOLD() external view returns (uint256);

    /// @notice The least that calls wait, in seconds: 48 hours.
    function DELAY_MIN() external view returns (uint256);

    /// @notice The role of members.
    function MEMBER_ROLE() external view returns (bytes32);
}
