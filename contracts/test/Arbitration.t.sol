// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";

import {Arbitration} from "../src/Arbitration.sol";
import {Council} from "../src/Council.sol";
import {IArbitration} from "../src/interfaces/IArbitration.sol";
import {IBonds} from "../src/interfaces/IBonds.sol";
import {IChannels} from "../src/interfaces/IChannels.sol";
import {ICouncil} from "../src/interfaces/ICouncil.sol";
import {ChannelConfig, Claim} from "../src/types/Channel.sol";
import {Stage} from "../src/types/Complaint.sol";
import {ChannelsTest, Person} from "./support/ChannelsTest.sol";
import {vm} from "./support/Vm.sol";

contract ArbitrationTest is ChannelsTest {
    Arbitration private arbitration;
    Council private council;
    Person private accused = person("accused");
    Person private claimant = person("claimant");
    Person private court = person("court");
    Person[3] private members;

    uint128 private constant PRICE = 2 * UNIT + 1;
    uint128 private constant BOND = 10 * UNIT;
    bytes32 private constant REPORT = keccak256("report");

    function setUp() public override {
        super.setUp();
        address[] memory accounts = new address[](3);
        for (uint256 i = 0; i < 3; ++i) {
            members[i] = person(string.concat("member ", vm.toString(i)));
            accounts[i] = members[i].account;
        }
        council = new Council(accounts, 2);
        arbitration = new Arbitration(address(token), address(council), court.account, PRICE);
        token.mint(address(this), 2 * BOND);
        token.approve(address(arbitration), 2 * BOND);
        arbitration.bond(accused.account, BOND);
        arbitration.bond(claimant.account, BOND);
    }

    // Complaints

    function test_complaint_upheldTakesThePriceFromTheAccused() public {
        uint256 id = _answered();
        _rule(id, true);
        _pass(7 days);
        vm.expectEmit(address(arbitration));
        emit IArbitration.Settled(id, accused.account, PRICE);
        arbitration.settle(id);
        _bonds(BOND - PRICE, 0, BOND + PRICE / 2, 0);
        vm.assertEq(token.balanceOf(arbitration.BURNED()), PRICE - PRICE / 2);
        _stage(id, Stage.Over);
    }

    function test_complaint_rejectedTakesThePriceFromTheClaimant() public {
        uint256 id = _answered();
        _rule(id, false);
        _pass(7 days);
        arbitration.settle(id);
        _bonds(BOND + PRICE / 2, 0, BOND - PRICE, 0);
    }

    function test_complaint_withoutAnswerIsUpheldByDefaultAndCanBeAppealed() public {
        uint256 id = _complain();
        _pass(7 days);
        arbitration.settle(id);
        _stage(id, Stage.Ruled);
        uint256 state = vm.snapshotState();
        _pass(7 days);
        arbitration.settle(id);
        _bonds(BOND - PRICE, 0, BOND + PRICE / 2, 0);
        vm.revertToState(state);
        vm.prank(accused.account);
        arbitration.appeal(id);
        vm.prank(court.account);
        arbitration.rule(id, false);
        _bonds(BOND + PRICE / 2, 0, BOND - PRICE, 0);
    }

    function test_complaint_withoutRulingLapses() public {
        uint256 id = _answered();
        _bonds(BOND, PRICE, BOND, PRICE);
        _pass(14 days);
        arbitration.settle(id);
        _bonds(BOND, 0, BOND, 0);
        _stage(id, Stage.Over);
    }

    function test_appeal_lostCostsThePriceOnceMore() public {
        uint256 id = _answered();
        _rule(id, true);
        vm.prank(accused.account);
        arbitration.appeal(id);
        _bonds(BOND, 2 * PRICE, BOND, PRICE);
        vm.prank(court.account);
        arbitration.rule(id, true);
        _bonds(BOND - 2 * PRICE, 0, BOND + PRICE, 0);
        vm.assertEq(token.balanceOf(arbitration.BURNED()), PRICE);
    }

    function test_appeal_wonTurnsTheRuling() public {
        uint256 id = _answered();
        _rule(id, false);
        vm.prank(claimant.account);
        arbitration.appeal(id);
        _bonds(BOND, PRICE, BOND, 2 * PRICE);
        vm.prank(court.account);
        arbitration.rule(id, true);
        _bonds(BOND - PRICE, 0, BOND + PRICE / 2, 0);
        vm.assertTrue(arbitration.complaint(id).upheld);
    }

    function test_appeal_undecidedLeavesTheRuling() public {
        uint256 id = _answered();
        _rule(id, true);
        vm.prank(accused.account);
        arbitration.appeal(id);
        _pass(14 days);
        arbitration.settle(id);
        _bonds(BOND - PRICE, 0, BOND + PRICE / 2, 0);
    }

    function test_complain_revertsIfABondIsTooSmallOrOnesOwn() public {
        vm.prank(stranger.account);
        vm.expectRevert(abi.encodeWithSelector(IArbitration.BondTooSmall.selector, stranger.account, 0, PRICE));
        arbitration.complain(accused.account, REPORT);
        vm.prank(claimant.account);
        vm.expectRevert(abi.encodeWithSelector(IArbitration.BondTooSmall.selector, stranger.account, 0, PRICE));
        arbitration.complain(stranger.account, REPORT);
        vm.prank(claimant.account);
        vm.expectRevert(abi.encodeWithSelector(IArbitration.AccusedIsClaimant.selector, claimant.account));
        arbitration.complain(claimant.account, REPORT);
        // Four complaints lock what four can.
        for (uint256 i = 0; i < 4; ++i) {
            _complain();
        }
        vm.prank(claimant.account);
        vm.expectRevert(
            abi.encodeWithSelector(IArbitration.BondTooSmall.selector, claimant.account, BOND - 4 * PRICE, PRICE)
        );
        arbitration.complain(accused.account, REPORT);
    }

    function test_eachStepIsThatOfOneInItsTime() public {
        uint256 id = _complain();
        _noSay(claimant.account, id, abi.encodeCall(IArbitration.answer, (id, REPORT)));
        _wrongStage(address(council), id, abi.encodeCall(IArbitration.rule, (id, true)));
        _wrongStage(accused.account, id, abi.encodeCall(IArbitration.appeal, (id)));
        uint40 deadline = arbitration.complaint(id).deadline;
        vm.warp(deadline);
        vm.expectRevert(abi.encodeWithSelector(IArbitration.TooEarly.selector, id, deadline));
        arbitration.settle(id);
        uint256 state = vm.snapshotState();
        vm.warp(deadline + 1);
        _late(accused.account, id, deadline, abi.encodeCall(IArbitration.answer, (id, REPORT)));
        vm.revertToState(state);
        vm.prank(accused.account);
        arbitration.answer(id, REPORT);

        _noSay(court.account, id, abi.encodeCall(IArbitration.rule, (id, true)));
        _noSay(accused.account, id, abi.encodeCall(IArbitration.rule, (id, true)));
        deadline = arbitration.complaint(id).deadline;
        state = vm.snapshotState();
        vm.warp(deadline + 1);
        _late(address(council), id, deadline, abi.encodeCall(IArbitration.rule, (id, true)));
        vm.revertToState(state);
        _rule(id, true);

        _noSay(claimant.account, id, abi.encodeCall(IArbitration.appeal, (id)));
        _wrongStage(address(council), id, abi.encodeCall(IArbitration.rule, (id, false)));
        deadline = arbitration.complaint(id).deadline;
        state = vm.snapshotState();
        vm.warp(deadline + 1);
        _late(accused.account, id, deadline, abi.encodeCall(IArbitration.appeal, (id)));
        vm.revertToState(state);
        vm.prank(accused.account);
        arbitration.appeal(id);

        _noSay(address(council), id, abi.encodeCall(IArbitration.rule, (id, true)));
        deadline = arbitration.complaint(id).deadline;
        state = vm.snapshotState();
        vm.warp(deadline + 1);
        _late(court.account, id, deadline, abi.encodeCall(IArbitration.rule, (id, true)));
        vm.revertToState(state);
        vm.prank(court.account);
        arbitration.rule(id, true);

        vm.warp(deadline + 365 days);
        vm.expectRevert(abi.encodeWithSelector(IArbitration.StageWrong.selector, id));
        arbitration.settle(id);
        vm.expectRevert(abi.encodeWithSelector(IArbitration.StageWrong.selector, 99));
        arbitration.settle(99);
    }

    /// C8: what a complaint locks stays, whatever was announced before.
    function test_unbond_leavesWhatIsLocked() public {
        vm.prank(accused.account);
        arbitration.announceLeaving(BOND);
        _pass(29 days);
        uint256 id = _complain();
        _pass(2 days);
        vm.prank(accused.account);
        vm.assertEq(arbitration.unbond(accused.account), BOND - PRICE);
        vm.startPrank(accused.account);
        arbitration.announceLeaving(BOND);
        vm.stopPrank();
        _pass(5 days);
        arbitration.settle(id);
        _pass(30 days);
        vm.prank(accused.account);
        vm.expectRevert(abi.encodeWithSelector(IBonds.BondLocked.selector, PRICE));
        arbitration.unbond(accused.account);
        arbitration.settle(id);
        _bonds(0, 0, BOND + PRICE / 2, 0);
    }

    function test_parametersAreNeeded() public {
        vm.expectRevert(IArbitration.ParameterMissing.selector);
        new Arbitration(address(token), address(0), court.account, PRICE);
        vm.expectRevert(IArbitration.ParameterMissing.selector);
        new Arbitration(address(token), address(council), address(0), PRICE);
        vm.expectRevert(IArbitration.ParameterMissing.selector);
        new Arbitration(address(token), address(council), court.account, 0);
    }

    // The council

    function test_council_rulesAfterEnoughApprovalsAndTwoDays() public {
        uint256 id = _answered();
        bytes memory call = abi.encodeCall(IArbitration.rule, (id, true));
        bytes32 operation = council.hashOperation(address(arbitration), 0, call, 0, REPORT);
        _approve(0, address(arbitration), call);
        vm.assertFalse(council.isOperation(operation));
        vm.expectRevert(abi.encodeWithSelector(ICouncil.ApprovedAlready.selector, operation, members[0].account));
        vm.prank(members[0].account);
        council.approve(address(arbitration), call, REPORT);
        _approve(1, address(arbitration), call);
        vm.assertTrue(council.isOperationPending(operation));
        vm.assertEq(council.approvers(operation).length, 2);
        _pass(48 hours - 2);
        vm.expectRevert();
        council.execute(address(arbitration), 0, call, 0, REPORT);
        _pass(1);
        vm.prank(stranger.account);
        council.execute(address(arbitration), 0, call, 0, REPORT);
        _stage(id, Stage.Ruled);
        // A third approval changes nothing.
        _approve(2, address(arbitration), call);
    }

    function test_council_isClosedToOthers() public {
        bytes memory call = abi.encodeCall(IArbitration.rule, (1, true));
        bytes32 member = council.MEMBER_ROLE();
        bytes32 proposer = council.PROPOSER_ROLE();
        vm.prank(stranger.account);
        vm.expectRevert(
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, stranger.account, member)
        );
        council.approve(address(arbitration), call, REPORT);
        vm.prank(members[0].account);
        vm.expectRevert(
            abi.encodeWithSelector(
                IAccessControl.AccessControlUnauthorizedAccount.selector, members[0].account, proposer
            )
        );
        council.schedule(address(arbitration), 0, call, 0, REPORT, 48 hours);
    }

    /// C10: who decides, and how fast, changes as slowly as everything else.
    function test_council_changesItselfSlowly() public {
        bytes32 member = council.MEMBER_ROLE();
        bytes memory call = abi.encodeCall(IAccessControl.revokeRole, (member, members[2].account));
        vm.prank(members[0].account);
        vm.expectRevert();
        council.revokeRole(member, members[2].account);
        // The third member approves something before it is removed: that counts no more afterwards.
        bytes memory ruling = abi.encodeCall(IArbitration.rule, (1, true));
        _approve(2, address(arbitration), ruling);
        _decide(address(council), call);
        vm.assertFalse(council.hasRole(member, members[2].account));
        _approve(0, address(arbitration), ruling);
        vm.assertFalse(council.isOperation(council.hashOperation(address(arbitration), 0, ruling, 0, REPORT)));

        bytes memory faster = abi.encodeCall(TimelockController.updateDelay, (48 hours - 1));
        _approve(0, address(council), faster);
        _approve(1, address(council), faster);
        _pass(48 hours - 1);
        vm.expectRevert(abi.encodeWithSelector(ICouncil.DelayTooShort.selector, 48 hours - 1));
        council.execute(address(council), 0, faster, 0, REPORT);
        _decide(address(council), abi.encodeCall(TimelockController.updateDelay, (4 days)));
        vm.assertEq(council.getMinDelay(), 4 days);
        vm.expectRevert(abi.encodeWithSelector(TimelockController.TimelockUnauthorizedCaller.selector, address(this)));
        council.updateDelay(5 days);
    }

    function test_council_needsMembers() public {
        address[] memory twice = new address[](2);
        (twice[0], twice[1]) = (members[0].account, members[0].account);
        vm.expectRevert(ICouncil.MembersInvalid.selector);
        new Council(twice, 2);
        vm.expectRevert(ICouncil.MembersInvalid.selector);
        new Council(twice, 0);
        vm.expectRevert(ICouncil.MembersInvalid.selector);
        new Council(twice, 3);
    }

    /// The arbiter has no rights in `Channels`: whatever it has the council call there, a live channel and the money of
    /// others stay as they are, as after the same call of a stranger.
    function test_theArbiterCannotTouchChannels() public {
        (ChannelConfig memory config, bytes32 id) = opened(10 * UNIT);
        claim(config, UNIT);
        Claim memory old = voucher(config, UNIT);
        old.signature = "";
        ChannelConfig memory other = usualConfig();
        other.salt = bytes32(uint256(2));
        ChannelConfig[] memory configs = new ChannelConfig[](1);
        configs[0] = other;
        uint128[] memory amounts = new uint128[](1);
        amounts[0] = UNIT;
        bytes[] memory calls = new bytes[](12);
        calls[0] = abi.encodeCall(IChannels.withdraw, (address(token), UNIT, address(council)));
        calls[1] = abi.encodeCall(IChannels.open, (other, UNIT));
        calls[2] = abi.encodeCall(IChannels.openBatch, (configs, amounts));
        calls[3] = abi.encodeCall(IChannels.topUp, (config, UNIT));
        calls[4] = abi.encodeCall(IChannels.claim, (one(old)));
        old.amount = 5 * UNIT;
        calls[5] = abi.encodeCall(IChannels.claim, (one(old)));
        calls[6] = abi.encodeCall(IChannels.claimPacked, (packed(config, 5 * UNIT, stranger.key)));
        calls[7] = abi.encodeCall(IChannels.claimPackedAndSweep, (packed(config, 5 * UNIT, stranger.key)));
        calls[8] = abi.encodeCall(IChannels.closeCooperatively, (old, ""));
        calls[9] = abi.encodeCall(IChannels.startClose, (config));
        calls[10] = abi.encodeCall(IChannels.finishClose, (config));
        calls[11] = abi.encodeCall(IChannels.deposit, (address(token), UNIT));
        bytes memory before = _live(id);
        for (uint256 i = 0; i < calls.length; ++i) {
            _approve(0, address(channels), calls[i]);
            _approve(1, address(channels), calls[i]);
        }
        _pass(48 hours);
        for (uint256 i = 0; i < calls.length; ++i) {
            (bool done,) = address(council)
                .call(abi.encodeCall(TimelockController.execute, (address(channels), 0, calls[i], 0, REPORT)));
            vm.assertEq(_live(id), before);
            // A claim that brings nothing new is nobody's business; all else is refused.
            vm.assertTrue(done == (i == 4));
            vm.prank(address(arbitration));
            (done,) = address(channels).call(calls[i]);
            vm.assertEq(_live(id), before);
            vm.assertTrue(done == (i == 4));
        }
    }

    function _live(bytes32 id) private view returns (bytes memory) {
        return abi.encode(
            channels.channel(id), deposits(payer.account), claimable(payee.account), token.balanceOf(address(channels))
        );
    }

    function _complain() private returns (uint256) {
        vm.prank(claimant.account);
        return arbitration.complain(accused.account, REPORT);
    }

    function _answered() private returns (uint256 id) {
        id = _complain();
        vm.prank(accused.account);
        arbitration.answer(id, REPORT);
    }

    function _rule(uint256 id, bool upheld) private {
        _decide(address(arbitration), abi.encodeCall(IArbitration.rule, (id, upheld)));
    }

    function _decide(address target, bytes memory call) private {
        _approve(0, target, call);
        _approve(1, target, call);
        _pass(48 hours);
        council.execute(target, 0, call, 0, REPORT);
    }

    function _approve(uint256 member, address target, bytes memory call) private {
        vm.prank(members[member].account);
        council.approve(target, call, REPORT);
    }

    function _pass(uint256 time) private {
        vm.warp(vm.getBlockTimestamp() + time + 1);
    }

    function _noSay(address sender, uint256 id, bytes memory call) private {
        _refused(sender, call, abi.encodeWithSelector(IArbitration.SenderHasNoSay.selector, id, sender));
    }

    function _wrongStage(address sender, uint256 id, bytes memory call) private {
        _refused(sender, call, abi.encodeWithSelector(IArbitration.StageWrong.selector, id));
    }

    function _late(address sender, uint256 id, uint40 deadline, bytes memory call) private {
        _refused(sender, call, abi.encodeWithSelector(IArbitration.TooLate.selector, id, deadline));
    }

    function _refused(address sender, bytes memory call, bytes memory reason) private {
        vm.prank(sender);
        (bool done, bytes memory answer) = address(arbitration).call(call);
        vm.assertFalse(done);
        vm.assertEq(answer, reason);
    }

    function _bonds(uint256 accusedAmount, uint256 accusedLocked, uint256 claimantAmount, uint256 claimantLocked)
        private
        view
    {
        vm.assertEq(arbitration.bondOf(accused.account).amount, accusedAmount, "accused");
        vm.assertEq(arbitration.bondOf(accused.account).locked, accusedLocked, "accused, locked");
        vm.assertEq(arbitration.bondOf(claimant.account).amount, claimantAmount, "claimant");
        vm.assertEq(arbitration.bondOf(claimant.account).locked, claimantLocked, "claimant, locked");
        vm.assertEq(token.balanceOf(address(arbitration)), accusedAmount + claimantAmount, "held is not owed");
    }

    function _stage(uint256 id, Stage stage) private view {
        vm.assertEq(uint256(arbitration.complaint(id).stage), uint256(stage), "stage");
    }
}
