// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Arbitration} from "../src/Arbitration.sol";
import {Channels} from "../src/Channels.sol";
import {Keys} from "../src/Keys.sol";
import {Stake} from "../src/Stake.sol";
import {Towers} from "../src/Towers.sol";
import {Digests} from "../src/libraries/Digests.sol";
import {Appointment} from "../src/types/Appointment.sol";
import {ChannelConfig, ChannelState, Claim, Status} from "../src/types/Channel.sol";
import {Block, Bond, SignedBlock, SignedDelegation, SignedReceipt} from "../src/types/Evidence.sol";
import {vm} from "../test/support/Vm.sol";
import {Money} from "./Channels.t.sol";

/// One call of each entry point of `Towers`, with any amounts and signatures of 65 bytes, for one payee's account and one
/// channel. Run by halmos, not by forge.
contract TowersSymbolic {
    Channels private channels;
    Towers private towers;
    Money private token;
    ChannelConfig private config;
    bytes32 private id;

    address private constant PAYEE = address(0x1002);
    address private constant KEY = address(0x1005);
    address private constant TOWER = address(0x1006);
    uint128 private constant BALANCE = 1e20;

    function setUp() public {
        channels = new Channels();
        towers = new Towers(channels);
        token = new Money();
        config =
            ChannelConfig(address(0x1001), address(0x1004), PAYEE, KEY, address(token), 1 days, bytes32(uint256(7)));
        id = channels.channelId(config);
        token.mint(address(channels), type(uint112).max);
        token.mint(address(this), type(uint112).max);
        token.approve(address(towers), type(uint256).max);
        towers.deposit(PAYEE, KEY, address(token), BALANCE);
        vm.warp(1_800_000_000);
    }

    function check_deposit(uint112 amount) public {
        uint256 before = token.balanceOf(address(this));
        (bool done,) = address(towers).call(abi.encodeCall(towers.deposit, (PAYEE, KEY, address(token), amount)));
        assert(done == (amount != 0 && amount <= before));
        assert(_balance() == BALANCE + (done ? amount : 0) && token.balanceOf(address(towers)) == _balance());
    }

    function check_announceWithdrawalAndWithdraw(address sender, uint128 amount, uint32 later, address to) public {
        vm.assume(to != address(this) && sender != address(towers) && to != TOWER);
        vm.prank(sender);
        towers.announceWithdrawal(KEY, address(token), amount);
        vm.warp(1_800_000_000 + uint256(later));
        vm.prank(sender);
        (bool done,) = address(towers).call(abi.encodeCall(towers.withdraw, (KEY, address(token), to)));
        if (!done) return assert(_balance() == BALANCE);
        assert(sender == PAYEE && later >= towers.NOTICE() && amount != 0);
        assert(_balance() == BALANCE - (amount < BALANCE ? amount : BALANCE));
        assert(token.balanceOf(address(towers)) == _balance());
    }

    /// C7, and the reward is set aside exactly once and only for a credit.
    function check_defend(
        uint256 slot,
        address sender,
        uint128 amount,
        uint128 appointed,
        uint128 reward,
        bytes32 r,
        bytes32 s,
        uint8 v
    ) public {
        _any(slot);
        ChannelState memory before = channels.channel(id);
        Appointment memory appointment = Appointment(id, appointed, PAYEE, address(token), reward, 1_800_000_000);
        Claim memory last = Claim(config, amount, abi.encodePacked(r, s, v));
        vm.prank(sender);
        (bool done,) =
            address(towers).call(abi.encodeCall(towers.defend, (last, appointment, abi.encodePacked(s, r, v), TOWER)));
        ChannelState memory found = channels.channel(id);
        assert(found.reserved == before.reserved && found.status == before.status && found.closeAt == before.closeAt);
        assert(_balance() + towers.defence(id).reward == BALANCE);
        if (!done) {
            assert(found.claimed == before.claimed && _balance() == BALANCE);
            return;
        }
        assert(before.status == Status.Closing && before.claimed < appointed && appointed <= amount);
        assert(found.claimed == amount && amount <= found.reserved && towers.defence(id).reward == reward);
        assert(channels.claimableOf(PAYEE, address(token)) == amount - before.claimed);
    }

    /// Once, when the channel can be closed, and to who defended it.
    function check_collect_ofADefence(
        uint40 closeAt,
        uint128 amount,
        uint128 reward,
        bool isFinished,
        address sender,
        uint40 time,
        bytes32 r,
        bytes32 s,
        uint8 v
    ) public {
        // Closing, 1000 reserved, nothing claimed.
        vm.store(address(channels), id, bytes32(uint256(2) << 248 | uint256(closeAt) << 208 | 1000));
        Appointment memory appointment = Appointment(id, 1, PAYEE, address(token), reward, 1_800_000_000);
        Claim memory last = Claim(config, amount, abi.encodePacked(r, s, v));
        (bool done,) =
            address(towers).call(abi.encodeCall(towers.defend, (last, appointment, abi.encodePacked(s, r, v), TOWER)));
        vm.assume(done);
        vm.warp(time);
        if (isFinished) {
            (done,) = address(channels).call(abi.encodeCall(channels.finishClose, (config)));
            vm.assume(done);
        }
        vm.prank(sender);
        (done,) = address(towers).call(abi.encodeCall(towers.collect, (config)));
        assert(done == (time >= closeAt));
        assert(token.balanceOf(TOWER) == (done ? reward : 0) && _balance() == BALANCE - reward);
        assert(token.balanceOf(address(towers)) == BALANCE - (done ? reward : 0));
        assert((channels.channel(id).status == Status.Closed) == done);
        if (!done) return;
        (bool again,) = address(towers).call(abi.encodeCall(towers.collect, (config)));
        assert(!again);
    }

    function check_collect_withoutDefence(uint256 slot, address sender, uint32 time) public {
        _any(slot);
        vm.warp(time);
        vm.prank(sender);
        (bool done,) = address(towers).call(abi.encodeCall(towers.collect, (config)));
        assert(!done && _balance() == BALANCE && token.balanceOf(address(towers)) == BALANCE);
    }

    function _balance() private view returns (uint256) {
        return towers.account(PAYEE, KEY, address(token)).balance;
    }

    function _any(uint256 slot) private {
        vm.assume(slot >> 248 <= 3 && uint104(slot >> 104) <= uint104(slot));
        vm.assume(slot >> 248 == 0 ? slot == 0 : uint104(slot) != 0);
        vm.store(address(channels), id, bytes32(slot));
    }
}

/// One call of each entry point of `Stake` and `Arbitration`, with any amounts and signatures of 65 bytes, for one provider,
/// one claimant and one complaint. What both have of `Bonds` is looked at in one of them. Run by halmos, not by forge.
contract BondsSymbolic {
    Channels private channels;
    Keys private keys;
    Stake private stake;
    Arbitration private arbitration;
    Money private token;
    ChannelConfig private config;
    bytes32 private id;

    address private constant PROVIDER = address(0x1002);
    address private constant CLAIMANT = address(0x1003);
    address private constant KEY = address(0x1005);
    address private constant ARBITER = address(0x1006);
    address private constant COURT = address(0x1007);
    bytes32 private constant DEVICE = keccak256("device");
    uint128 private constant BOND = 1000;
    uint128 private constant PENALTY = 301;
    uint64 private constant NOW = 1_800_000_000;
    uint64 private constant EXPIRY = NOW + 30 days;

    function setUp() public {
        vm.warp(NOW);
        channels = new Channels();
        keys = new Keys(channels);
        token = new Money();
        stake = new Stake(keys, address(token), PENALTY);
        arbitration = new Arbitration(address(token), ARBITER, COURT, PENALTY);
        config =
            ChannelConfig(address(0x1001), address(0x1004), PROVIDER, KEY, address(token), 1 days, bytes32(uint256(7)));
        id = channels.channelId(config);
        token.mint(address(this), type(uint112).max);
        token.approve(address(stake), type(uint256).max);
        token.approve(address(arbitration), type(uint256).max);
        stake.bond(PROVIDER, BOND);
        arbitration.bond(PROVIDER, BOND);
        arbitration.bond(CLAIMANT, BOND);
        vm.prank(PROVIDER);
        keys.register(Digests.Delegation(PROVIDER, DEVICE, KEY, EXPIRY));
    }

    function check_bond(uint112 amount) public {
        uint256 before = token.balanceOf(address(this));
        (bool done,) = address(stake).call(abi.encodeCall(stake.bond, (PROVIDER, amount)));
        assert(done == (amount != 0 && amount <= before));
        assert(stake.bondOf(PROVIDER).amount == BOND + (done ? amount : 0));
        assert(token.balanceOf(address(stake)) == stake.bondOf(PROVIDER).amount);
    }

    /// C8: nothing leaves before its time, and nothing that a complaint holds.
    function check_announceLeavingAndUnbond(address sender, uint128 amount, uint32 later, bool complained) public {
        vm.assume(sender != CLAIMANT && sender != address(arbitration));
        if (complained) _complain();
        vm.prank(sender);
        arbitration.announceLeaving(amount);
        vm.warp(NOW + uint256(later));
        vm.prank(sender);
        (bool done,) = address(arbitration).call(abi.encodeCall(arbitration.unbond, (address(0x9999))));
        Bond memory found = arbitration.bondOf(PROVIDER);
        assert(found.amount + token.balanceOf(address(0x9999)) == BOND && found.locked <= found.amount);
        if (done) assert(sender == PROVIDER && later >= arbitration.UNBONDING());
        else assert(found.amount == BOND);
    }

    function check_commit(bytes32 commitment, uint64 time) public {
        vm.assume(time != 0);
        vm.warp(time);
        stake.commit(commitment);
        assert(stake.committedAt(commitment) == time);
        (bool again,) = address(stake).call(abi.encodeCall(stake.commit, (commitment)));
        assert(!again && stake.bondOf(PROVIDER).amount == BOND);
    }

    /// Whatever is signed: nothing without a commitment of the sender's in time, nothing for one receipt twice, nothing
    /// after grace, and never more than the penalty.
    function check_reportReceipts(
        address sender,
        uint64 committed,
        uint64 time,
        uint64[2] calldata ups,
        uint64 sequence,
        bytes32 r,
        bytes32 s,
        uint8 v
    ) public {
        vm.assume(sender != address(stake) && sender != stake.BURNED() && sender != address(this));
        vm.assume(sender != address(arbitration));
        vm.assume(committed != 0 && committed < 1 << 40 && time >= committed);
        bytes32 evidence = stake.receiptsEvidence(PROVIDER, id, 0, 7);
        vm.warp(committed);
        stake.commit(keccak256(abi.encode(evidence, sender, bytes32(0))));
        vm.warp(time);
        SignedReceipt memory first =
            SignedReceipt(Digests.Receipt(id, 0, 7, ups[0], 2, 3, 0, 4), abi.encodePacked(r, s, v));
        SignedReceipt memory second =
            SignedReceipt(Digests.Receipt(id, 0, sequence, ups[1], 2, 3, 0, 4), abi.encodePacked(s, r, v));
        bytes memory call = abi.encodeCall(stake.reportReceipts, (_delegation(), config, first, second, 0));
        vm.prank(sender);
        (bool done,) = address(stake).call(call);
        _slashedOnce(done, sender, evidence);
        if (!done) return;
        assert(sequence == 7 && ups[0] != ups[1]);
        assert(time >= committed + stake.REVEAL_DELAY() && time <= EXPIRY + stake.GRACE());
        vm.prank(sender);
        (bool again,) = address(stake).call(call);
        assert(!again);
    }

    /// The same for a block of a file that has no other: halmos 0.3.3 cannot follow SHA-256, which longer ones need.
    function check_reportBlock(
        address sender,
        uint64 committed,
        uint64 time,
        bytes32 root,
        bytes32 told,
        bytes32 leaf,
        bytes32 r,
        bytes32 s,
        uint8 v
    ) public {
        vm.assume(sender != address(stake) && sender != stake.BURNED() && sender != address(this));
        vm.assume(sender != address(arbitration));
        vm.assume(committed != 0 && committed < 1 << 40 && time >= committed);
        Block memory statement = Block(root, 1, 0, told);
        bytes32 evidence = stake.blockEvidence(PROVIDER, statement);
        vm.warp(committed);
        stake.commit(keccak256(abi.encode(evidence, sender, bytes32(0))));
        vm.warp(time);
        bytes memory call = abi.encodeCall(
            stake.reportBlock,
            (_delegation(), SignedBlock(statement, abi.encodePacked(r, s, v)), leaf, new bytes32[](0), 0)
        );
        vm.prank(sender);
        (bool done,) = address(stake).call(call);
        _slashedOnce(done, sender, evidence);
        if (!done) return;
        assert(leaf == root && told != leaf);
        assert(time >= committed + stake.REVEAL_DELAY() && time <= EXPIRY + stake.GRACE());
        vm.prank(sender);
        (bool again,) = address(stake).call(call);
        assert(!again);
    }

    // A complaint, by whoever acts whenever

    function check_complain(address sender, address accused) public {
        vm.prank(sender);
        (bool done,) = address(arbitration).call(abi.encodeCall(arbitration.complain, (accused, 0)));
        bool able = (sender == PROVIDER || sender == CLAIMANT) && (accused == PROVIDER || accused == CLAIMANT);
        assert(done == (able && sender != accused));
        _locked(done ? PENALTY : 0, done ? PENALTY : 0);
    }

    function check_answer(address sender, uint32 later) public {
        _complain();
        vm.warp(NOW + uint256(later));
        vm.prank(sender);
        (bool done,) = address(arbitration).call(abi.encodeCall(arbitration.answer, (1, 0)));
        assert(done == (sender == PROVIDER && later <= arbitration.ANSWER_PERIOD()));
        _locked(PENALTY, PENALTY);
    }

    function check_rule(address sender, bool upheld, bool answered, uint32 later) public {
        _complain();
        if (answered) _answer();
        vm.warp(NOW + uint256(later));
        vm.prank(sender);
        (bool done,) = address(arbitration).call(abi.encodeCall(arbitration.rule, (1, upheld)));
        assert(done == (answered && sender == ARBITER && later <= arbitration.RULING_PERIOD()));
        _locked(PENALTY, PENALTY);
        if (done) assert(arbitration.complaint(1).upheld == upheld);
    }

    function check_appeal(address sender, bool upheld, uint32 later) public {
        _ruled(upheld);
        vm.warp(NOW + uint256(later));
        vm.prank(sender);
        (bool done,) = address(arbitration).call(abi.encodeCall(arbitration.appeal, (1)));
        address loser = upheld ? PROVIDER : CLAIMANT;
        assert(done == (sender == loser && later <= arbitration.APPEAL_PERIOD()));
        uint256 more = done ? PENALTY : 0;
        _locked(PENALTY + (upheld ? more : 0), PENALTY + (upheld ? 0 : more));
    }

    function check_ruleOfTheCourt(address sender, bool upheld, bool second, uint32 later) public {
        _ruled(upheld);
        vm.prank(upheld ? PROVIDER : CLAIMANT);
        arbitration.appeal(1);
        vm.warp(NOW + uint256(later));
        vm.prank(sender);
        (bool done,) = address(arbitration).call(abi.encodeCall(arbitration.rule, (1, second)));
        assert(done == (sender == COURT && later <= arbitration.RULING_PERIOD()));
        if (!done) return;
        _locked(0, 0);
        uint256 lost = upheld == second ? 2 * PENALTY : PENALTY;
        assert(arbitration.bondOf(second ? PROVIDER : CLAIMANT).amount == BOND - lost);
        assert(arbitration.bondOf(second ? CLAIMANT : PROVIDER).amount == BOND + lost / 2);
    }

    function check_settle(uint8 stage, bool upheld, uint32 later) public {
        vm.assume(stage < 4);
        if (stage < 2) _complain();
        if (stage == 1) _answer();
        if (stage > 1) _ruled(upheld);
        if (stage == 3) {
            vm.prank(upheld ? PROVIDER : CLAIMANT);
            arbitration.appeal(1);
        }
        uint40 deadline = arbitration.complaint(1).deadline;
        vm.warp(NOW + uint256(later));
        (bool done,) = address(arbitration).call(abi.encodeCall(arbitration.settle, (1)));
        assert(done == (NOW + uint256(later) > deadline));
        if (!done) return;
        if (stage == 0) return _locked(PENALTY, PENALTY);
        _locked(0, 0);
        if (stage == 1) {
            assert(arbitration.bondOf(PROVIDER).amount == BOND && arbitration.bondOf(CLAIMANT).amount == BOND);
        } else {
            assert(arbitration.bondOf(upheld ? PROVIDER : CLAIMANT).amount == BOND - PENALTY);
        }
    }

    function _slashedOnce(bool done, address reporter, bytes32 evidence) private view {
        uint256 lost = done ? PENALTY : 0;
        assert(stake.bondOf(PROVIDER).amount == BOND - lost && stake.isUsed(evidence) == done);
        assert(token.balanceOf(reporter) == lost / 2 && token.balanceOf(stake.BURNED()) == lost - lost / 2);
        assert(token.balanceOf(address(stake)) == BOND - lost);
    }

    function _locked(uint256 provider, uint256 claimant) private view {
        assert(arbitration.bondOf(PROVIDER).locked == provider && arbitration.bondOf(CLAIMANT).locked == claimant);
        assert(
            token.balanceOf(address(arbitration))
                == uint256(arbitration.bondOf(PROVIDER).amount) + arbitration.bondOf(CLAIMANT).amount
        );
    }

    function _delegation() private pure returns (SignedDelegation memory) {
        return SignedDelegation(Digests.Delegation(PROVIDER, DEVICE, KEY, EXPIRY), "");
    }

    function _complain() private {
        vm.prank(CLAIMANT);
        arbitration.complain(PROVIDER, 0);
    }

    function _answer() private {
        vm.prank(PROVIDER);
        arbitration.answer(1, 0);
    }

    function _ruled(bool upheld) private {
        _complain();
        _answer();
        vm.prank(ARBITER);
        arbitration.rule(1, upheld);
    }
}
