// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";

import {Arbitration} from "../../src/Arbitration.sol";
import {Channels} from "../../src/Channels.sol";
import {Council} from "../../src/Council.sol";
import {TestToken} from "../../src/TestToken.sol";
import {IArbitration} from "../../src/interfaces/IArbitration.sol";
import {IChannels} from "../../src/interfaces/IChannels.sol";
import {ICouncil} from "../../src/interfaces/ICouncil.sol";
import {ChannelConfig, ChannelState, Claim, Status} from "../../src/types/Channel.sol";
import {Complaint, Stage} from "../../src/types/Complaint.sol";
import {GasBounds} from "../support/GasBounds.sol";
import {bound, vm} from "../support/Vm.sol";
import {Campaign, Tally} from "./Tally.sol";

/// Five people, two or more of them members of a council that decides by two; it is arbiter and court of `Arbitration`. They
/// approve rulings, changes of the council, and what they would like to do to channels that others live on meanwhile.
/// The ledger is kept by the rules, never by asking the contracts.
contract CouncilWorld is Tally {
    enum Kind {
        Rule,
        Grant,
        Revoke,
        Delay,
        Haste, // a delay below 48 hours
        Schedule, // the council schedules by itself, by as short a wait as it likes
        Channels
    }

    struct Operation {
        Kind kind;
        bool upheld;
        bool isBatch; // scheduled by the council itself
        bool isTried;
        bool isDone;
        bytes4 reason; // why it must be refused, where that is so; zero for any
        address target;
        bytes data;
        uint256 subject; // a complaint, a person, a channel
        uint256 amount; // seconds, or what is claimed
        uint256 approved; // a bit for each person
        uint256 scheduledAt;
        uint256 due; // zero until it is scheduled
    }

    struct Live {
        ChannelConfig config;
        bytes32 id;
        uint256 put;
        uint256 credited;
        uint40 closeAt;
    }

    struct Ruling {
        Stage stage;
        bool upheld;
        uint256 deadline;
    }

    Channels public channels = new Channels();
    TestToken public token = new TestToken();
    Council public council;
    Arbitration public arbitration;

    uint256 public constant PEOPLE = 5;
    address[5] public people;
    bool[5] public isMember;
    uint256 public members = 3;
    uint256 public delay = 48 hours;
    /// The least that passed between the last approval that an executed call needed and its execution.
    uint256 public shortestWait = type(uint256).max;
    uint256 public deposited = 1e30;
    uint256 public credited;

    Operation[] private _operations;
    Live[] private _live;
    Ruling[] private _rulings; // of complaint i + 1

    uint256 private constant PAYER = uint256(keccak256("payer"));
    address public constant PAYEE = address(0xa0);
    address private constant ACCUSED = address(0xa1);
    address private constant CLAIMANT = address(0xa2);
    address private constant OUTSIDER = address(0xa3);
    uint256 private constant THRESHOLD = 2;

    constructor() {
        address[] memory first = new address[](3);
        for (uint256 p = 0; p < PEOPLE; ++p) {
            people[p] = address(uint160(0xb0 + p));
            if (p < 3) (first[p], isMember[p]) = (people[p], true);
        }
        council = new Council(first, THRESHOLD);
        arbitration = new Arbitration(address(token), address(council), address(council), 1001);
        token.mint(payer(), 1e30);
        vm.startPrank(payer());
        token.approve(address(channels), type(uint256).max);
        channels.deposit(address(token), 1e30);
        vm.stopPrank();
        token.mint(address(this), 2e30);
        token.approve(address(arbitration), type(uint256).max);
        arbitration.bond(ACCUSED, 1e30);
        arbitration.bond(CLAIMANT, 1e30);
        _expect(
            "Council.approve Council.execute Council.executeBatch Council.schedule "
            "Council.scheduleBatch Council.grantRole Council.revokeRole Council.renounceRole "
            "Council.updateDelay councilRules councilClaimsOfNothingNew councilComplaint "
            "councilAppeal councilPass partyOpens partyTopsUp partyClaims partyLeaves "
            "refusedRulingTooLate refusedHaste refusedSchedule refusedOnChannels refusedEarly "
            "refusedUnapproved refusedAgain refusedBatchUnapproved refusedGrant refusedRevoke "
            "refusedDelay refusedDirectSchedule refusedDirectScheduleBatch refusedCancel "
            "refusedOutsider refusedSecondApproval refusedRuling"
        );
        _allow("approve", GasBounds.APPROVE);
        _allow("execute a ruling", GasBounds.EXECUTE_RULING);
    }

    // The council

    function propose(uint256 kind, uint256 seed) external counted("Council.approve") {
        _propose(Kind(kind % 7), seed);
    }

    /// One more approval of what was proposed.
    function approve(uint256 which, uint256 seed) external counted("Council.approve") {
        for (uint256 n = 0; n < _operations.length; ++n) {
            uint256 i = (which % _operations.length + n) % _operations.length;
            uint256 person = _whoMayApprove(_operations[i], seed);
            if (person != PEOPLE) return _approve(_operations[i], person);
        }
        _propose(Kind(seed % 7), seed);
    }

    /// Anybody executes what is due, and time passes until something is.
    function execute(uint256 which, address sender) external timed {
        for (uint256 n = 0; n < _operations.length; ++n) {
            Operation storage found = _operations[(which % _operations.length + n) % _operations.length];
            // What was refused once may be tried again, but not all the time.
            if (found.due == 0 || found.isDone || (found.isTried && which % 4 != 0)) continue;
            if (_leavesTooFew(found)) continue;
            return _execute(found, sender);
        }
        Kind kind = Kind(which % 7);
        _execute(_scheduled(kind == Kind.Revoke ? Kind.Rule : kind, which), sender);
    }

    /// Members may leave at once. (So may all of them: this world keeps as many as can decide.)
    function renounce(uint256 person) external timed {
        person %= PEOPLE;
        if (!isMember[person] || members == THRESHOLD) return;
        bytes32 role = council.MEMBER_ROLE();
        vm.prank(people[person]);
        council.renounceRole(role, people[person]);
        (isMember[person], members) = (false, members - 1);
        _count("Council.renounceRole");
    }

    function pass(uint256 time) external counted("councilPass") {
        _pass(bound(time, 1, 3 days));
    }

    /// What must be refused, always.
    function hurry(uint256 how, uint256 which, uint256 seed) external timed {
        how %= 13;
        address member = people[_member(seed)];
        bytes32 role = council.MEMBER_ROLE();
        bytes4 unauthorized = IAccessControl.AccessControlUnauthorizedAccount.selector;
        bytes4 notReady = TimelockController.TimelockUnexpectedOperationState.selector;
        if (how == 0) {
            // A second before its time.
            Operation storage found = _scheduled(Kind.Grant, seed);
            _pass(found.due - 1 - _now);
            return _refuse("refusedEarly", member, _execution(found), notReady);
        } else if (how == 1) {
            // One approval, however long ago.
            Operation storage found = _propose(Kind.Grant, seed);
            _pass(delay);
            return _refuse("refusedUnapproved", member, _execution(found), notReady);
        } else if (how == 2) {
            Operation storage found = _scheduled(Kind.Grant, seed);
            _execute(found, member);
            return _refuse("refusedAgain", member, _execution(found), notReady);
        } else if (how == 3) {
            bytes memory call = abi.encodeCall(council.grantRole, (role, OUTSIDER));
            return _refuse("refusedGrant", member, call, unauthorized);
        } else if (how == 4) {
            bytes memory call = abi.encodeCall(council.revokeRole, (role, people[which % PEOPLE]));
            return _refuse("refusedRevoke", member, call, unauthorized);
        } else if (how == 5) {
            bytes memory call = abi.encodeCall(council.updateDelay, (bound(seed, 48 hours, 30 days)));
            return _refuse("refusedDelay", member, call, TimelockController.TimelockUnauthorizedCaller.selector);
        } else if (how == 6) {
            bytes memory call = abi.encodeCall(council.schedule, (address(channels), 0, "", 0, 0, seed));
            return _refuse("refusedDirectSchedule", member, call, unauthorized);
        } else if (how == 7) {
            bytes memory call = _scheduleBatch("", bytes32(seed), seed);
            return _refuse("refusedDirectScheduleBatch", member, call, unauthorized);
        } else if (how == 8) {
            Operation storage found = _scheduled(Kind.Grant, seed);
            bytes32 id = council.hashOperation(found.target, 0, found.data, 0, _saltOf(found));
            return _refuse("refusedCancel", member, abi.encodeCall(council.cancel, (id)), unauthorized);
        } else if (how == 9) {
            return _refuse("refusedOutsider", OUTSIDER, abi.encodeCall(council.approve, (member, "", 0)), unauthorized);
        } else if (how == 10) {
            Operation storage found = _propose(Kind.Rule, seed);
            bytes memory call = abi.encodeCall(council.approve, (found.target, found.data, _saltOf(found)));
            for (uint256 p = 0; p < PEOPLE; ++p) {
                if (found.approved == 1 << p) member = people[p];
            }
            return _refuse("refusedSecondApproval", member, call, ICouncil.ApprovedAlready.selector);
        } else if (how == 11) {
            bytes memory call = abi.encodeCall(arbitration.rule, (_complaint(which), seed % 2 == 0));
            return _refused("refusedRuling", address(arbitration), member, call, IArbitration.SenderHasNoSay.selector);
        }
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) = _batch("");
        bytes memory batch = abi.encodeCall(council.executeBatch, (targets, values, calls, 0, bytes32(seed)));
        _refuse("refusedBatchUnapproved", member, batch, notReady);
    }

    // Others

    function complain(uint256) external counted("councilComplaint") {
        _complain();
    }

    function appeal(uint256 which) external timed {
        for (uint256 n = 0; n < _rulings.length; ++n) {
            uint256 i = (which % _rulings.length + n) % _rulings.length;
            Ruling storage found = _rulings[i];
            if (found.stage != Stage.Ruled || _now > found.deadline) continue;
            vm.prank(found.upheld ? ACCUSED : CLAIMANT);
            arbitration.appeal(i + 1);
            (found.stage, found.deadline) = (Stage.Appealed, _now + 14 days);
            return _count("councilAppeal");
        }
    }

    function openChannel(uint128 amount) external counted("partyOpens") {
        _open(amount);
    }

    function topUp(uint256 which, uint128 amount) external counted("partyTopsUp") {
        Live storage found = _live[_open(which, amount)];
        amount = uint128(bound(amount, 1, 1e12));
        vm.prank(payer());
        channels.topUp(found.config, amount);
        found.put += amount;
        deposited -= amount;
    }

    function claim(uint256 which, uint128 amount) external counted("partyClaims") {
        if (_live.length == 0) _open(amount);
        uint256 i = which % _live.length;
        if (_live[i].credited == _live[i].put) i = _open(amount);
        Live storage found = _live[i];
        amount = uint128(bound(amount, found.credited + 1, found.put));
        Claim[] memory claims = new Claim[](1);
        claims[0] = Claim(found.config, amount, _sign(PAYER, channels.voucherDigest(found.id, amount)));
        channels.claim(claims);
        credited += amount - found.credited;
        found.credited = amount;
    }

    function startClose(uint256 which) external counted("partyLeaves") {
        Live storage found = _live[_open(which, 1)];
        vm.prank(payer());
        channels.startClose(found.config);
        found.closeAt = uint40(_now) + 30 days;
    }

    // What the invariants ask

    function live() external view returns (Live[] memory) {
        return _live;
    }

    function rulings() external view returns (Ruling[] memory) {
        return _rulings;
    }

    function payer() public pure returns (address) {
        return vm.addr(PAYER);
    }

    // How the council decides

    function _propose(Kind kind, uint256 seed) private returns (Operation storage found) {
        uint256 subject = kind == Kind.Rule ? _complaint(seed) : seed % PEOPLE;
        if (kind == Kind.Channels) subject = _open(seed, uint128(seed));
        found = _operations.push();
        (found.kind, found.target, found.subject) = (kind, address(council), subject);
        bytes32 role = council.MEMBER_ROLE();
        if (kind == Kind.Rule) {
            (found.target, found.upheld) = (address(arbitration), seed / 7 % 2 == 0);
            found.data = abi.encodeCall(arbitration.rule, (subject, found.upheld));
        } else if (kind == Kind.Grant) {
            found.data = abi.encodeCall(council.grantRole, (role, people[subject]));
        } else if (kind == Kind.Revoke) {
            found.data = abi.encodeCall(council.revokeRole, (role, people[subject]));
        } else if (kind == Kind.Delay) {
            found.amount = bound(seed, 48 hours, 5 days);
            found.data = abi.encodeCall(council.updateDelay, (found.amount));
        } else if (kind == Kind.Haste) {
            found.reason = ICouncil.DelayTooShort.selector;
            found.data = abi.encodeCall(council.updateDelay, (bound(seed, 0, 48 hours - 1)));
        } else if (kind == Kind.Schedule) {
            found.amount = bound(seed, 0, 6 days);
            found.reason = TimelockController.TimelockInsufficientDelay.selector;
            found.data = _scheduleBatch(
                abi.encodeCall(council.grantRole, (role, people[subject])), ~_saltOf(found), found.amount
            );
        } else {
            found.target = address(channels);
            _onChannels(found, seed / 7 % 7, seed / 49 % 2 == 0);
        }
        _approve(found, _member(seed));
    }

    /// What only its parties may do to a live channel, and a claim without a signature.
    function _onChannels(Operation storage found, uint256 how, bool isNews) private {
        Live storage channel = _live[found.subject];
        ChannelConfig memory config = channel.config;
        (found.reason, found.amount) = (IChannels.SenderNotPayer.selector, type(uint256).max);
        Claim[] memory claims = new Claim[](1);
        claims[0] = Claim(config, uint128(isNews ? channel.put : channel.credited), "");
        if (how == 0) {
            found.reason = IChannels.DepositTooSmall.selector;
            found.data = abi.encodeCall(channels.withdraw, (address(token), 1, OUTSIDER));
        } else if (how == 1) {
            config.salt = bytes32(type(uint256).max);
            found.data = abi.encodeCall(channels.open, (config, 1));
        } else if (how == 2) {
            found.data = abi.encodeCall(channels.topUp, (config, 1));
        } else if (how == 3) {
            found.amount = claims[0].amount;
            found.reason = IChannels.VoucherSignatureInvalid.selector;
            found.data = abi.encodeCall(channels.claim, (claims));
        } else if (how == 4) {
            found.reason = IChannels.CloseSignatureInvalid.selector;
            found.data = abi.encodeCall(channels.closeCooperatively, (claims[0], ""));
        } else {
            found.data = abi.encodeCall(channels.startClose, (config));
            if (how == 5) return;
            bytes[] memory calls = new bytes[](1);
            calls[0] = found.data;
            found.data = abi.encodeCall(channels.multicall, (calls));
        }
    }

    function _approve(Operation storage found, uint256 person) private {
        vm.prank(people[person]);
        council.approve(found.target, found.data, _saltOf(found));
        _measure("approve");
        found.approved |= 1 << person;
        uint256 approvals;
        for (uint256 p = 0; p < PEOPLE; ++p) {
            if (isMember[p] && found.approved >> p & 1 == 1) ++approvals;
        }
        if (approvals < THRESHOLD || found.due != 0) return;
        (found.scheduledAt, found.due) = (_now, _now + delay);
        _count("Council.schedule");
    }

    /// A call that was just scheduled.
    function _scheduled(Kind kind, uint256 seed) private returns (Operation storage found) {
        found = _propose(kind, seed);
        _approve(found, _whoMayApprove(found, seed));
    }

    function _execute(Operation storage found, address sender) private {
        if (_now < found.due) _pass(found.due - _now);
        bool may = _may(found);
        bytes memory call = _execution(found);
        vm.prank(sender);
        (bool done, bytes memory answer) = address(council).call(call);
        vm.assertTrue(done == may, "executed though it must not be, or the other way round");
        if (!done) {
            found.isTried = true;
            if (found.reason != 0) {
                vm.assertEq(bytes32(bytes4(answer)), bytes32(found.reason), "refused for another reason");
            }
            return _count(_refusal(found.kind));
        }
        if (found.kind == Kind.Rule) _measure("execute a ruling");
        found.isDone = true;
        if (_now - found.scheduledAt < shortestWait) shortestWait = _now - found.scheduledAt;
        _count(found.isBatch ? "Council.executeBatch" : "Council.execute");
        _executed(found);
    }

    /// Whether a call that is due goes through.
    function _may(Operation storage found) private view returns (bool) {
        if (found.kind == Kind.Haste) return false;
        if (found.kind == Kind.Schedule) return found.amount >= delay;
        if (found.kind == Kind.Channels) return found.amount <= _live[found.subject].credited;
        if (found.kind != Kind.Rule) return true;
        Ruling storage ruling = _rulings[found.subject - 1];
        return (ruling.stage == Stage.Answered || ruling.stage == Stage.Appealed) && _now <= ruling.deadline;
    }

    function _executed(Operation storage found) private {
        uint256 subject = found.subject;
        if (found.kind == Kind.Rule) {
            Ruling storage ruling = _rulings[subject - 1];
            ruling.stage = ruling.stage == Stage.Answered ? Stage.Ruled : Stage.Over;
            ruling.upheld = found.upheld;
            if (ruling.stage == Stage.Ruled) ruling.deadline = _now + 7 days;
            _count("councilRules");
        } else if (found.kind == Kind.Grant) {
            if (!isMember[subject]) (isMember[subject], members) = (true, members + 1);
            _count("Council.grantRole");
        } else if (found.kind == Kind.Revoke) {
            if (isMember[subject]) (isMember[subject], members) = (false, members - 1);
            _count("Council.revokeRole");
        } else if (found.kind == Kind.Delay) {
            delay = found.amount;
            _count("Council.updateDelay");
        } else if (found.kind == Kind.Schedule) {
            uint256 amount = found.amount;
            // Its salt follows from the place of what scheduled it.
            bytes32 salt = ~_saltOf(found);
            Operation storage next = _operations.push();
            (next.kind, next.isBatch, next.subject, next.target) = (Kind.Grant, true, subject, address(council));
            next.data = abi.encodeCall(council.grantRole, (council.MEMBER_ROLE(), people[subject]));
            (next.scheduledAt, next.due, next.amount) = (_now, _now + amount, uint256(salt));
            next.approved = type(uint256).max;
            _count("Council.scheduleBatch");
        } else {
            _count("councilClaimsOfNothingNew");
        }
    }

    function _refusal(Kind kind) private pure returns (string memory) {
        if (kind == Kind.Rule) return "refusedRulingTooLate";
        if (kind == Kind.Haste) return "refusedHaste";
        return kind == Kind.Schedule ? "refusedSchedule" : "refusedOnChannels";
    }

    function _execution(Operation storage found) private view returns (bytes memory) {
        if (!found.isBatch) {
            return abi.encodeCall(council.execute, (found.target, 0, found.data, 0, _saltOf(found)));
        }
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) = _batch(found.data);
        return abi.encodeCall(council.executeBatch, (targets, values, calls, 0, bytes32(found.amount)));
    }

    function _scheduleBatch(bytes memory call, bytes32 salt, uint256 wait) private view returns (bytes memory) {
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) = _batch(call);
        return abi.encodeCall(council.scheduleBatch, (targets, values, calls, 0, salt, wait));
    }

    function _batch(bytes memory call)
        private
        view
        returns (address[] memory targets, uint256[] memory values, bytes[] memory calls)
    {
        (targets, values, calls) = (new address[](1), new uint256[](1), new bytes[](1));
        (targets[0], calls[0]) = (address(council), call);
    }

    /// Each operation has its own, and never zero: its place in storage.
    function _saltOf(Operation storage found) private pure returns (bytes32 salt) {
        assembly ("memory-safe") {
            salt := found.slot
        }
    }

    /// A member that did not approve it so far, or PEOPLE.
    function _whoMayApprove(Operation storage found, uint256 seed) private view returns (uint256) {
        for (uint256 n = 0; n < PEOPLE; ++n) {
            uint256 p = (seed % PEOPLE + n) % PEOPLE;
            if (isMember[p] && found.approved >> p & 1 == 0) return p;
        }
        return PEOPLE;
    }

    function _member(uint256 seed) private view returns (uint256 p) {
        p = seed % PEOPLE;
        while (!isMember[p]) p = (p + 1) % PEOPLE;
    }

    function _leavesTooFew(Operation storage found) private view returns (bool) {
        return found.kind == Kind.Revoke && isMember[found.subject] && members == THRESHOLD;
    }

    function _refuse(string memory name, address sender, bytes memory data, bytes4 reason) private {
        _refused(name, address(council), sender, data, reason);
    }

    // What it decides about, and what it must leave alone

    /// A complaint that can be ruled about.
    function _complaint(uint256 seed) private returns (uint256 id) {
        for (uint256 n = 0; n < _rulings.length; ++n) {
            uint256 i = (seed % _rulings.length + n) % _rulings.length;
            Stage stage = _rulings[i].stage;
            if ((stage == Stage.Answered || stage == Stage.Appealed) && _now <= _rulings[i].deadline) return i + 1;
        }
        return _complain();
    }

    function _complain() private returns (uint256 id) {
        vm.prank(CLAIMANT);
        id = arbitration.complain(ACCUSED, 0);
        vm.prank(ACCUSED);
        arbitration.answer(id, 0);
        _rulings.push(Ruling(Stage.Answered, false, _now + 14 days));
    }

    /// A channel that is open.
    function _open(uint256 which, uint128 amount) private returns (uint256 i) {
        for (uint256 n = 0; n < _live.length; ++n) {
            i = (which % _live.length + n) % _live.length;
            if (_live[i].closeAt == 0) return i;
        }
        return _open(amount);
    }

    function _open(uint128 amount) private returns (uint256 i) {
        i = _live.length;
        Live storage found = _live.push();
        found.config = ChannelConfig({
            payer: payer(),
            payerAuthorizer: payer(),
            payee: PAYEE,
            payeeAuthorizer: address(0),
            token: address(token),
            withdrawDelay: 30 days,
            salt: bytes32(i)
        });
        found.id = channels.channelId(found.config);
        found.put = bound(amount, 1, 1e12);
        vm.prank(payer());
        channels.open(found.config, uint128(found.put));
        deposited -= found.put;
    }
}

/// C10: privileged changes wait 48 hours at least, and never alter live channels; C11 for the council's decisions.
/// forge-config: default.isolate = true
contract CouncilInvariants is Campaign {
    CouncilWorld private world;
    Council private council;

    function setUp() public {
        world = new CouncilWorld();
        council = world.council();
    }

    function _target() internal view override returns (address, bytes4[] memory selectors) {
        selectors = new bytes4[](12);
        selectors[0] = CouncilWorld.propose.selector;
        selectors[1] = CouncilWorld.approve.selector;
        selectors[2] = CouncilWorld.execute.selector;
        selectors[3] = CouncilWorld.renounce.selector;
        selectors[4] = CouncilWorld.pass.selector;
        selectors[5] = CouncilWorld.hurry.selector;
        selectors[6] = CouncilWorld.complain.selector;
        selectors[7] = CouncilWorld.appeal.selector;
        selectors[8] = CouncilWorld.openChannel.selector;
        selectors[9] = CouncilWorld.topUp.selector;
        selectors[10] = CouncilWorld.claim.selector;
        selectors[11] = CouncilWorld.startClose.selector;
        return (address(world), selectors);
    }

    /// Who is a member, how long calls wait and what is ruled came from approved calls only, and none of these was executed
    /// within 48 hours of the last approval that it needed. Nobody but the council has rights over the council.
    function invariant_C10_privilegedChangesAreApprovedAndWait48Hours() public view {
        vm.assertGe(world.shortestWait(), 48 hours, "C10: sooner than 48 hours");
        vm.assertEq(council.getMinDelay(), world.delay(), "C10: delay");
        vm.assertGe(council.getMinDelay(), 48 hours, "C10: delay < 48 hours");
        for (uint256 p = 0; p < world.PEOPLE(); ++p) {
            address person = world.people(p);
            vm.assertTrue(council.hasRole(council.MEMBER_ROLE(), person) == world.isMember(p), "C10: member");
            vm.assertFalse(council.hasRole(council.PROPOSER_ROLE(), person), "C10: proposer");
            vm.assertFalse(council.hasRole(council.CANCELLER_ROLE(), person), "C10: canceller");
            vm.assertFalse(council.hasRole(council.DEFAULT_ADMIN_ROLE(), person), "C10: admin");
        }
        CouncilWorld.Ruling[] memory rulings = world.rulings();
        for (uint256 i = 0; i < rulings.length; ++i) {
            Complaint memory found = world.arbitration().complaint(i + 1);
            vm.assertEq(uint256(found.stage), uint256(rulings[i].stage), "C10: stage");
            vm.assertTrue(found.upheld == rulings[i].upheld, "C10: ruling");
        }
    }

    function invariant_C10_liveChannelsAreAsTheirPartiesLeftThem() public view {
        Channels channels = world.channels();
        CouncilWorld.Live[] memory live = world.live();
        uint256 inside;
        for (uint256 i = 0; i < live.length; ++i) {
            ChannelState memory state = channels.channel(live[i].id);
            vm.assertEq(state.reserved, live[i].put, "C10: reserved");
            vm.assertEq(state.claimed, live[i].credited, "C10: claimed");
            vm.assertEq(state.closeAt, live[i].closeAt, "C10: closeAt");
            vm.assertTrue(state.status == (live[i].closeAt == 0 ? Status.Open : Status.Closing), "C10: status");
            inside += live[i].put - live[i].credited;
        }
        address token = address(world.token());
        vm.assertEq(channels.depositOf(world.payer(), token), world.deposited(), "C10: deposit");
        vm.assertEq(channels.claimableOf(world.PAYEE(), token), world.credited(), "C10: claimable");
        uint256 held = world.token().balanceOf(address(channels));
        vm.assertEq(held, world.deposited() + world.credited() + inside, "C10: held");
    }

    function invariant_C11_gasOfDecisionsIsBounded() public view {
        world.requireGasIsBounded();
    }
}
