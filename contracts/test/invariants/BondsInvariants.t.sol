// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Arbitration} from "../../src/Arbitration.sol";
import {Bonds} from "../../src/Bonds.sol";
import {Channels} from "../../src/Channels.sol";
import {Keys} from "../../src/Keys.sol";
import {Stake} from "../../src/Stake.sol";
import {TestToken} from "../../src/TestToken.sol";
import {IStake} from "../../src/interfaces/IStake.sol";
import {Digests} from "../../src/libraries/Digests.sol";
import {ChannelConfig} from "../../src/types/Channel.sol";
import {Complaint, Stage} from "../../src/types/Complaint.sol";
import {Block, SignedBlock, SignedDelegation, SignedReceipt} from "../../src/types/Evidence.sol";
import {GasBounds} from "../support/GasBounds.sol";
import {bound, vm} from "../support/Vm.sol";
import {Campaign, Tally} from "./Tally.sol";

/// Three holders with a bond in `Stake` and one in `Arbitration` each; they lie, are reported, complain about each other,
/// answer, appeal and leave. The ledger is kept by the rules, never by asking the contracts.
contract BondsWorld is Tally {
    Channels public channels = new Channels();
    TestToken public token = new TestToken();
    Stake public stake;
    Arbitration public arbitration;
    address[3] public holders;

    /// By contract (0 is the stake) and holder.
    uint256[3][2] public bonds;
    uint256[3][2] public locked;
    uint256[3][2] public leaving;
    uint256[3][2] public due;
    uint256[2] public paidIn;
    uint256[2] public paidOut; // withdrawn
    uint256[2] public slashed; // burned and rewards; in `Arbitration` burned only
    uint256 public burned;

    bytes[] private _used; // reports that were believed
    uint256 private _serial;
    address private constant ARBITER = address(0xa1);
    address private constant COURT = address(0xa2);
    address private constant REPORTER = address(0xa3);
    uint256 private constant AUTHORIZER = uint256(keccak256("authorizer"));
    uint128 private constant PENALTY = 1001;
    uint128 private constant PRICE = 501;

    constructor() {
        stake = new Stake(new Keys(channels), address(token), PENALTY);
        arbitration = new Arbitration(address(token), ARBITER, COURT, PRICE);
        for (uint256 h = 0; h < 3; ++h) {
            holders[h] = vm.addr(_key(h));
        }
        _expect(
            "Stake.bond Stake.announceLeaving Stake.unbond Stake.commit Stake.reportReceipts "
            "Stake.reportBlock Arbitration.bond Arbitration.announceLeaving Arbitration.unbond "
            "Arbitration.complain Arbitration.answer Arbitration.rule Arbitration.appeal "
            "Arbitration.settle bondsRefusedReportAgain bondsPass"
        );
        _allow("commit", GasBounds.COMMIT);
        _allow("reportReceipts", GasBounds.REPORT_RECEIPTS);
        _allow("reportBlock", GasBounds.REPORT_BLOCK);
        _allow("complain", GasBounds.COMPLAIN);
        _allow("answer", GasBounds.ANSWER);
        _allow("rule", GasBounds.RULE);
        _allow("appeal", GasBounds.APPEAL);
        _allow("settle", GasBounds.SETTLE);
    }

    // Bonds

    function bond(uint256 which, uint256 holder, uint128 amount) external timed {
        _bond(which % 2, holder % 3, bound(amount, 1, 1e6));
        _count(which % 2 == 0 ? "Stake.bond" : "Arbitration.bond");
    }

    function announce(uint256 which, uint256 holder, uint128 amount) external timed {
        _announce(which % 2, holder % 3, uint128(bound(amount, 0, 2e6)));
        _count(which % 2 == 0 ? "Stake.announceLeaving" : "Arbitration.announceLeaving");
    }

    function unbond(uint256 which, uint256 holder, uint128 amount) external timed {
        (which, holder) = (which % 2, holder % 3);
        if (bonds[which][holder] == locked[which][holder]) _bond(which, holder, 10_000);
        if (leaving[which][holder] == 0) _announce(which, holder, uint128(bound(amount, 1, 2e6)));
        if (_now < due[which][holder]) _pass(due[which][holder] - _now);
        uint256 expected = bonds[which][holder] - locked[which][holder];
        if (expected > leaving[which][holder]) expected = leaving[which][holder];
        vm.prank(holders[holder]);
        vm.assertEq(_bonds(which).unbond(address(0xdead0)), expected, "unbonded");
        bonds[which][holder] -= expected;
        (leaving[which][holder], due[which][holder]) = (0, 0);
        paidOut[which] += expected;
        _count(which == 0 ? "Stake.unbond" : "Arbitration.unbond");
    }

    // Evidence

    function reportReceipts(uint256 provider) external counted("Stake.reportReceipts") {
        _reportReceipts(provider % 3);
    }

    /// What a file of 2^height blocks gives: the way to the root may be as long as the contract takes (50).
    function reportBlock(uint256 provider, bytes32 leaf, uint256 height) external counted("Stake.reportBlock") {
        provider %= 3;
        bytes32[] memory proof = new bytes32[](bound(height, 0, 50));
        bytes32 root = leaf;
        for (uint256 i = 0; i < proof.length; ++i) {
            proof[i] = keccak256(abi.encode(leaf, i));
            root = sha256(abi.encode(root, proof[i]));
        }
        // As many bytes as give such a tree: one block more than half of it holds, or where 64 bits end.
        uint256 length = proof.length == 0 ? 1 : (uint256(16 * 1024) << (proof.length - 1)) + 1;
        Block memory statement = Block(root, uint64(length), 0, keccak256(abi.encode(++_serial)));
        SignedBlock memory served = SignedBlock(statement, _sign(AUTHORIZER, stake.blockDigest(statement)));
        _report(
            "reportBlock",
            provider,
            stake.blockEvidence(holders[provider], statement),
            abi.encodeCall(IStake.reportBlock, (_delegation(provider), served, leaf, proof, 0))
        );
    }

    function reportAgain(uint256 which) external timed {
        if (_used.length == 0) _reportReceipts(which % 3);
        bytes memory call = _used[which % _used.length];
        _refused("bondsRefusedReportAgain", address(stake), REPORTER, call, IStake.EvidenceUsed.selector);
    }

    // Complaints

    function complain(uint256 accused, uint256 claimant) external counted("Arbitration.complain") {
        _complain(accused % 3, claimant);
    }

    function answer(uint256 which) external counted("Arbitration.answer") {
        _answer(_at(which, Stage.Complained));
    }

    function rule(uint256 which, bool upheld) external counted("Arbitration.rule") {
        uint256 id = _at(which, which % 2 == 0 ? Stage.Answered : Stage.Appealed);
        _rule(id, upheld);
    }

    function appeal(uint256 which) external counted("Arbitration.appeal") {
        _appeal(_at(which, Stage.Ruled));
    }

    function settle(uint256 which) external counted("Arbitration.settle") {
        uint256 id = _at(which, Stage(1 + which % 4));
        Complaint memory found = arbitration.complaint(id);
        if (_now <= found.deadline) _pass(found.deadline + 1 - _now);
        arbitration.settle(id);
        _measure("settle");
        if (found.stage == Stage.Complained) return;
        if (found.stage == Stage.Answered) {
            locked[1][_holder(found.accused)] -= PRICE;
            locked[1][_holder(found.claimant)] -= PRICE;
            return;
        }
        if (found.stage == Stage.Appealed) locked[1][_loser(found, found.upheld)] -= PRICE;
        _over(found, found.upheld, PRICE, PRICE);
    }

    function pass(uint256 time) external counted("bondsPass") {
        _pass(bound(time, 1, 3 days));
    }

    // The ledger

    /// Two receipts of one session with one number.
    function _reportReceipts(uint256 provider) private {
        ChannelConfig memory config = ChannelConfig({
            payer: address(1),
            payerAuthorizer: address(2),
            payee: holders[provider],
            payeeAuthorizer: vm.addr(AUTHORIZER),
            token: address(token),
            withdrawDelay: 1 days,
            salt: bytes32(++_serial)
        });
        bytes32 id = channels.channelId(config);
        bytes32 separator = channels.domainSeparator();
        Digests.Receipt memory receipt = Digests.Receipt(id, bytes32(_serial), 1, 2, 3, 4, 0, 5);
        SignedReceipt memory first = SignedReceipt(receipt, _sign(AUTHORIZER, Digests.receipt(separator, receipt)));
        Digests.Receipt memory other = Digests.Receipt(id, bytes32(_serial), 1, 2, 3, 5, 0, 5);
        SignedReceipt memory second = SignedReceipt(other, _sign(AUTHORIZER, Digests.receipt(separator, other)));
        _report(
            "reportReceipts",
            provider,
            stake.receiptsEvidence(holders[provider], id, bytes32(_serial), 1),
            abi.encodeCall(IStake.reportReceipts, (_delegation(provider), config, first, second, 0))
        );
    }

    function _bond(uint256 which, uint256 holder, uint256 amount) private {
        token.mint(address(this), amount);
        token.approve(address(_bonds(which)), amount);
        _bonds(which).bond(holders[holder], uint128(amount));
        bonds[which][holder] += amount;
        paidIn[which] += amount;
    }

    function _announce(uint256 which, uint256 holder, uint128 amount) private {
        vm.prank(holders[holder]);
        _bonds(which).announceLeaving(amount);
        (leaving[which][holder], due[which][holder]) = (amount, amount == 0 ? 0 : _now + 30 days);
    }

    function _report(string memory what, uint256 provider, bytes32 evidence, bytes memory call) private {
        if (bonds[0][provider] == 0) _bond(0, provider, 1 + _serial * 37 % 3000);
        stake.commit(keccak256(abi.encode(evidence, REPORTER, bytes32(0))));
        _measure("commit");
        _count("Stake.commit");
        _pass(5 minutes);
        uint256 before = token.balanceOf(REPORTER);
        vm.prank(REPORTER);
        (bool done,) = address(stake).call(call);
        vm.assertTrue(done, "report");
        _measure(what);
        uint256 lost = bonds[0][provider] < PENALTY ? bonds[0][provider] : PENALTY;
        uint256 reward = token.balanceOf(REPORTER) - before;
        vm.assertEq(reward, lost / 2, "reward");
        vm.assertLe(reward, lost - reward, "more than half for the reporter");
        bonds[0][provider] -= lost;
        slashed[0] += lost;
        burned += lost - reward;
        _used.push(call);
    }

    function _delegation(uint256 provider) private view returns (SignedDelegation memory) {
        Digests.Delegation memory delegation =
            Digests.Delegation(holders[provider], keccak256("device"), vm.addr(AUTHORIZER), type(uint64).max);
        return
            SignedDelegation(
                delegation, _sign(_key(provider), Digests.delegation(channels.domainSeparator(), delegation))
            );
    }

    function _complain(uint256 accused, uint256 claimant) private returns (uint256 id) {
        claimant = (accused + 1 + claimant % 2) % 3;
        _need(accused);
        _need(claimant);
        vm.prank(holders[claimant]);
        id = arbitration.complain(holders[accused], 0);
        _measure("complain");
        locked[1][accused] += PRICE;
        locked[1][claimant] += PRICE;
    }

    function _answer(uint256 id) private {
        vm.prank(arbitration.complaint(id).accused);
        arbitration.answer(id, 0);
        _measure("answer");
    }

    function _rule(uint256 id, bool upheld) private {
        Complaint memory found = arbitration.complaint(id);
        vm.prank(found.stage == Stage.Appealed ? COURT : ARBITER);
        arbitration.rule(id, upheld);
        _measure("rule");
        if (found.stage != Stage.Appealed) return;
        bool lost = upheld == found.upheld;
        _over(found, upheld, lost ? 2 * PRICE : PRICE, lost ? PRICE : 2 * PRICE);
    }

    function _appeal(uint256 id) private {
        Complaint memory found = arbitration.complaint(id);
        uint256 loser = _loser(found, found.upheld);
        _need(loser);
        vm.prank(holders[loser]);
        arbitration.appeal(id);
        _measure("appeal");
        locked[1][loser] += PRICE;
    }

    /// The loser loses all that the complaint locked of its bond, and the winner's is free.
    function _over(Complaint memory found, bool upheld, uint256 lost, uint256 free) private {
        uint256 loser = _loser(found, upheld);
        uint256 winner = _loser(found, !upheld);
        locked[1][loser] -= lost;
        locked[1][winner] -= free;
        bonds[1][loser] -= lost;
        bonds[1][winner] += lost / 2;
        slashed[1] += lost - lost / 2;
        burned += lost - lost / 2;
    }

    /// A complaint at this stage and in time.
    function _at(uint256 which, Stage stage) private returns (uint256 id) {
        uint256 count = arbitration.complaints();
        for (uint256 n = 0; n < count && n < 30; ++n) {
            id = 1 + (which % count + n) % count;
            Complaint memory found = arbitration.complaint(id);
            if (found.stage == stage && _now <= found.deadline) return id;
        }
        id = _complain(which % 3, which / 3 % 2);
        if (stage == Stage.Complained) return id;
        _answer(id);
        if (stage == Stage.Answered) return id;
        _rule(id, which % 5 < 2);
        if (stage == Stage.Ruled) return id;
        _appeal(id);
    }

    function _need(uint256 holder) private {
        if (bonds[1][holder] - locked[1][holder] < PRICE) _bond(1, holder, 5 * PRICE);
    }

    function _loser(Complaint memory found, bool upheld) private view returns (uint256) {
        return _holder(upheld ? found.accused : found.claimant);
    }

    function _holder(address account) private view returns (uint256) {
        return account == holders[0] ? 0 : account == holders[1] ? 1 : 2;
    }

    function _bonds(uint256 which) private view returns (Bonds) {
        return which == 0 ? Bonds(stake) : Bonds(arbitration);
    }

    function _key(uint256 holder) private pure returns (uint256) {
        return uint256(keccak256(abi.encode("holder", holder)));
    }
}

/// C8: nobody loses more than is bonded, and what a dispute holds stays until it is over. C1, C2 for bonds; C11 for reports
/// and complaints.
/// forge-config: default.isolate = true
contract BondsInvariants is Campaign {
    BondsWorld private world;

    function setUp() public {
        world = new BondsWorld();
    }

    function _target() internal view override returns (address, bytes4[] memory selectors) {
        selectors = new bytes4[](12);
        selectors[0] = BondsWorld.bond.selector;
        selectors[1] = BondsWorld.announce.selector;
        selectors[2] = BondsWorld.unbond.selector;
        selectors[3] = BondsWorld.reportReceipts.selector;
        selectors[4] = BondsWorld.reportBlock.selector;
        selectors[5] = BondsWorld.reportAgain.selector;
        selectors[6] = BondsWorld.complain.selector;
        selectors[7] = BondsWorld.answer.selector;
        selectors[8] = BondsWorld.rule.selector;
        selectors[9] = BondsWorld.appeal.selector;
        selectors[10] = BondsWorld.settle.selector;
        selectors[11] = BondsWorld.pass.selector;
        return (address(world), selectors);
    }

    function invariant_C1_C2_C8_bondsAreThoseOfTheLedgerAndHeld() public view {
        Bonds[2] memory both = [Bonds(world.stake()), Bonds(world.arbitration())];
        for (uint256 c = 0; c < 2; ++c) {
            uint256 owed;
            for (uint256 h = 0; h < 3; ++h) {
                uint256 amount = both[c].bondOf(world.holders(h)).amount;
                vm.assertEq(amount, world.bonds(c, h), "bond");
                vm.assertEq(both[c].bondOf(world.holders(h)).locked, world.locked(c, h), "locked");
                vm.assertLe(world.locked(c, h), amount, "C8: more is locked than bonded");
                owed += amount;
            }
            uint256 held = world.token().balanceOf(address(both[c]));
            vm.assertEq(held, owed, "C1: held is not owed");
            vm.assertEq(held + world.paidOut(c) + world.slashed(c), world.paidIn(c), "C2: in is not out + held");
        }
        vm.assertEq(world.token().balanceOf(both[0].BURNED()), world.burned(), "burned");
    }

    function invariant_C11_gasOfReportsAndComplaintsIsBounded() public view {
        world.requireGasIsBounded();
    }
}
