// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Council} from "../src/Council.sol";
import {vm} from "../test/support/Vm.sol";

/// C10: one call of each entry point of a `Council` of three of whom two decide, by any sender, the council itself included.
/// Calls that are approved have 32 bytes of data; batches are of one call. Run by halmos, not by forge.
contract CouncilSymbolic {
    Council private council;
    bytes32 private member;

    address private constant FIRST = address(0x2001);
    address private constant SECOND = address(0x2002);
    address private constant THIRD = address(0x2003);
    address private constant OTHER = address(0x2004);
    uint256 private constant NOW = 1_800_000_000;

    function setUp() public {
        vm.warp(NOW);
        address[] memory members = new address[](3);
        (members[0], members[1], members[2]) = (FIRST, SECOND, THIRD);
        council = new Council(members, 2);
        member = council.MEMBER_ROLE();
    }

    /// By members only, each counts once, and two are needed.
    function check_approve(address sender, address target, uint256 argument, bytes32 salt) public {
        bytes memory data = abi.encode(argument);
        bytes32 id = council.hashOperation(target, 0, data, 0, salt);
        vm.prank(sender);
        (bool done,) = address(council).call(abi.encodeCall(council.approve, (target, data, salt)));
        assert(done == (sender == FIRST || sender == SECOND || sender == THIRD));
        assert(!council.isOperation(id));
        vm.prank(SECOND);
        (bool second,) = address(council).call(abi.encodeCall(council.approve, (target, data, salt)));
        assert(second == (sender != SECOND));
        assert(council.getTimestamp(id) == (done && second ? NOW + 48 hours : 0));
        _unchanged();
    }

    /// Not before 48 hours, and once. (That anybody can then is in `Arbitration.t.sol`: halmos 0.3.3 does not see that the
    /// role of executors is everybody's.)
    function check_execute(address sender, uint32 later, bool approved) public {
        bytes memory data = abi.encodeCall(council.grantRole, (member, OTHER));
        vm.prank(FIRST);
        council.approve(address(council), data, 0);
        if (approved) {
            vm.prank(SECOND);
            council.approve(address(council), data, 0);
        }
        vm.warp(NOW + uint256(later));
        bytes memory call = abi.encodeCall(council.execute, (address(council), 0, data, 0, 0));
        vm.prank(sender);
        (bool done,) = address(council).call(call);
        if (done) assert(approved && later >= 48 hours);
        assert(council.hasRole(member, OTHER) == done);
        (bool again,) = address(council).call(call);
        assert(!again || !done);
        _unchanged();
    }

    function check_executeBatch(address sender, uint256 argument, bytes32 salt) public {
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) = _batch(argument);
        vm.prank(sender);
        (bool done,) = address(council).call(abi.encodeCall(council.executeBatch, (targets, values, calls, 0, salt)));
        assert(!done);
    }

    /// By the council itself, and not below 48 hours.
    function check_schedule(address sender, address target, uint256 argument, bytes32 salt, uint256 delay) public {
        bytes memory data = abi.encode(argument);
        vm.prank(sender);
        (bool done,) = address(council).call(abi.encodeCall(council.schedule, (target, 0, data, 0, salt, delay)));
        if (done) assert(sender == address(council) && delay >= 48 hours);
        uint256 ready = council.getTimestamp(council.hashOperation(target, 0, data, 0, salt));
        assert(done ? ready >= NOW + 48 hours : ready == 0);
        _unchanged();
    }

    function check_scheduleBatch(address sender, uint256 argument, bytes32 salt, uint256 delay) public {
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) = _batch(argument);
        vm.prank(sender);
        (bool done,) =
            address(council).call(abi.encodeCall(council.scheduleBatch, (targets, values, calls, 0, salt, delay)));
        if (done) assert(sender == address(council) && delay >= 48 hours);
        uint256 ready = council.getTimestamp(council.hashOperationBatch(targets, values, calls, 0, salt));
        assert(done ? ready >= NOW + 48 hours : ready == 0);
        _unchanged();
    }

    function check_updateDelay(address sender, uint256 delay) public {
        vm.prank(sender);
        (bool done,) = address(council).call(abi.encodeCall(council.updateDelay, (delay)));
        assert(done == (sender == address(council) && delay >= 48 hours));
        assert(council.getMinDelay() == (done ? delay : 48 hours));
    }

    function check_grantRole(address sender, bytes32 role, address account) public {
        vm.prank(sender);
        (bool done,) = address(council).call(abi.encodeCall(council.grantRole, (role, account)));
        assert(done == (sender == address(council)));
        if (!done) assert(!council.hasRole(member, OTHER));
        _unchanged();
    }

    function check_revokeRole(address sender, bytes32 role, address account) public {
        vm.prank(sender);
        (bool done,) = address(council).call(abi.encodeCall(council.revokeRole, (role, account)));
        assert(done == (sender == address(council)));
        if (!done) _unchanged();
    }

    /// One's own only, and at once.
    function check_renounceRole(address sender, bytes32 role, address account) public {
        vm.prank(sender);
        (bool done,) = address(council).call(abi.encodeCall(council.renounceRole, (role, account)));
        assert(done == (sender == account));
        assert(council.hasRole(member, FIRST) == !(done && role == member && sender == FIRST));
        assert(council.hasRole(member, SECOND) == !(done && role == member && sender == SECOND));
    }

    /// Nobody may.
    function check_cancel(address sender) public {
        bytes memory data = abi.encode(uint256(1));
        vm.prank(FIRST);
        council.approve(OTHER, data, 0);
        vm.prank(SECOND);
        council.approve(OTHER, data, 0);
        bytes32 id = council.hashOperation(OTHER, 0, data, 0, 0);
        vm.prank(sender);
        (bool done,) = address(council).call(abi.encodeCall(council.cancel, (id)));
        assert(!done && council.isOperationPending(id));
    }

    /// Who was a member still is, and calls wait as long as they did.
    function _unchanged() private view {
        assert(council.hasRole(member, FIRST) && council.hasRole(member, SECOND) && council.hasRole(member, THIRD));
        assert(council.getMinDelay() == 48 hours);
    }

    function _batch(uint256 argument)
        private
        view
        returns (address[] memory targets, uint256[] memory values, bytes[] memory calls)
    {
        (targets, values, calls) = (new address[](1), new uint256[](1), new bytes[](1));
        (targets[0], calls[0]) = (address(council), abi.encode(argument));
    }
}
