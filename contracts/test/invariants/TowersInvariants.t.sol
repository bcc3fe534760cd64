// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Channels} from "../../src/Channels.sol";
import {TestToken} from "../../src/TestToken.sol";
import {Towers} from "../../src/Towers.sol";
import {ITowers} from "../../src/interfaces/ITowers.sol";
import {Appointment} from "../../src/types/Appointment.sol";
import {ChannelConfig, ChannelState, Claim, Status} from "../../src/types/Channel.sol";
import {GasBounds} from "../support/GasBounds.sol";
import {FeeToken} from "../support/Tokens.sol";
import {bound, vm} from "../support/Vm.sol";
import {Campaign, Tally} from "./Tally.sol";

/// One payer that leaves its channels to two payees (one with an authorizer, one without), towers with appointments old and
/// new, and payees that sometimes claim themselves. Every function makes first what it needs.
contract TowersWorld is Tally {
    struct Entry {
        ChannelConfig config;
        bytes32 id;
        uint256 payee;
        uint256 credited;
        uint256 aside; // what is set aside for the last defence
        uint256 token; // in this reward token
        uint256 defences;
        uint256 rewards; // how many were paid
        address best; // who made the last defence
        bool isOver;
    }

    Channels public channels = new Channels();
    Towers public towers = new Towers(channels);
    TestToken public money = new TestToken();
    TestToken[2] public rewards;
    address[2] public payees;
    address[2] public keys;

    mapping(uint256 payee => mapping(uint256 token => uint256)) public balances;
    mapping(uint256 payee => mapping(uint256 token => uint256)) public announced;
    mapping(uint256 payee => mapping(uint256 token => uint256)) public due;
    mapping(uint256 token => uint256) public paidIn;
    mapping(uint256 token => uint256) public rewarded;
    mapping(uint256 token => uint256) public withdrawn;
    mapping(address tower => mapping(uint256 token => uint256)) public earned;

    Entry[] private _entries;
    uint256 private constant PAYER = uint256(keccak256("payer"));
    uint256 private constant AUTHORIZER = uint256(keccak256("payer authorizer"));
    uint128 private constant HELD = 1000;

    constructor() {
        rewards = [new TestToken(), new FeeToken()];
        payees = [_of("payee with authorizer"), _of("payee alone")];
        keys = [_of("payee authorizer"), address(0)];
        _expect(
            "Towers.deposit Towers.announceWithdrawal Towers.withdraw Towers.defend Towers.collect "
            "towersReplace towersClaim towersPass towersRefusedLate towersRefusedForged "
            "towersRefusedExpired towersRefusedUncovered towersRefusedTwice"
        );
        _allow("defend", GasBounds.DEFEND);
        _allow("defend, too late", GasBounds.DEFEND_TOO_LATE);
        _allow("collect", GasBounds.COLLECT);
        money.mint(vm.addr(PAYER), 1e30);
        vm.startPrank(vm.addr(PAYER));
        money.approve(address(channels), type(uint256).max);
        channels.deposit(address(money), 1e30);
        vm.stopPrank();
    }

    function deposit(uint256 payee, uint256 token, uint128 amount) external counted("Towers.deposit") {
        _deposit(payee % 2, token % 2, bound(amount, 2, 1e12));
    }

    function announce(uint256 payee, uint256 token, uint128 amount) external counted("Towers.announceWithdrawal") {
        _announce(payee % 2, token % 2, uint128(bound(amount, 0, 2e12)));
    }

    function withdraw(uint256 payee, uint256 token, uint128 amount) external counted("Towers.withdraw") {
        (payee, token) = (payee % 2, token % 2);
        if (balances[payee][token] == 0) _deposit(payee, token, 1000);
        if (announced[payee][token] == 0) _announce(payee, token, uint128(bound(amount, 1, 2e12)));
        if (_now < due[payee][token]) _pass(due[payee][token] - _now);
        uint256 expected = announced[payee][token];
        if (expected > balances[payee][token]) expected = balances[payee][token];
        vm.prank(payees[payee]);
        vm.assertEq(towers.withdraw(keys[payee], address(rewards[token]), address(0xdead)), expected, "withdrawn");
        balances[payee][token] -= expected;
        (announced[payee][token], due[payee][token]) = (0, 0);
        withdrawn[token] += expected;
    }

    function defend(uint256 which, uint128 amount, uint256 token, uint96 reward, uint256 tower)
        external
        counted("Towers.defend")
    {
        _defend(_closing(which), amount, token % 2, reward, tower);
    }

    /// A tower that does better than one before.
    function replace(uint256 which, uint128 amount, uint256 token, uint96 reward, uint256 tower)
        external
        counted("towersReplace")
    {
        uint256 i = _closing(which);
        // There must be a defence before, and something left for the next.
        if (_entries[i].credited == HELD || (_entries[i].defences == 0 && _entries[i].credited >= HELD / 2)) {
            i = _opened();
        }
        if (_entries[i].defences == 0) {
            _defend(i, uint128(bound(amount, _entries[i].credited + 1, HELD / 2)), 1 - token % 2, reward, tower ^ 1);
        }
        uint256 before = _entries[i].defences;
        _defend(i, amount, token % 2, reward, tower);
        vm.assertEq(_entries[i].defences, before + 1, "another channel was defended");
    }

    /// The payee is awake.
    function claim(uint256 which, uint128 amount) external counted("towersClaim") {
        uint256 i = _closing(which);
        if (_entries[i].credited == HELD) i = _opened();
        Entry storage entry = _entries[i];
        amount = uint128(bound(amount, entry.credited + 1, HELD));
        Claim[] memory claims = new Claim[](1);
        claims[0] = _voucher(entry, amount);
        channels.claim(claims);
        entry.credited = amount;
    }

    /// What must be refused, always.
    function late(uint256 which, uint256 how, uint256 tower) external timed {
        how %= 4;
        uint256 i = _closing(which);
        if (how != 0 && _entries[i].credited == HELD) i = _opened();
        Entry storage entry = _entries[i];
        if (balances[entry.payee][0] == 0) _deposit(entry.payee, 0, 1000);
        if (entry.credited == 0) _defend(i, 1, 0, 1, tower);
        // Too late, for so much is claimed.
        Appointment memory appointment =
            Appointment(entry.id, uint128(entry.credited), payees[entry.payee], address(rewards[0]), 1, uint64(_now));
        (string memory name, bytes4 reason) = ("towersRefusedLate", ITowers.AlreadyClaimed.selector);
        uint256 key = _payeeKey(entry.payee);
        if (how != 0) appointment.amount = HELD;
        if (how == 1) {
            key = PAYER;
            (name, reason) = ("towersRefusedForged", ITowers.AppointmentSignatureInvalid.selector);
        } else if (how == 2) {
            appointment.expiry = uint64(_now - 1);
            (name, reason) = ("towersRefusedExpired", ITowers.AppointmentExpired.selector);
        } else if (how == 3) {
            uint256 back = entry.token == 0 ? entry.aside : 0;
            appointment.reward = uint128(balances[entry.payee][0] + back + 1);
            (name, reason) = ("towersRefusedUncovered", ITowers.RewardUncovered.selector);
        }
        bytes memory signature = _sign(key, towers.appointmentDigest(appointment));
        Claim memory last = _voucher(entry, appointment.amount);
        bytes memory call = abi.encodeCall(ITowers.defend, (last, appointment, signature, _tower(tower)));
        _refused(name, address(towers), address(this), call, reason);
        if (how == 0) _measure("defend, too late");
    }

    function collect(uint256 which, bool finished) external counted("Towers.collect") {
        uint256 i = _closing(which);
        Entry storage entry = _entries[i];
        if (entry.defences == 0 && entry.credited == HELD) (i, entry) = (_opened(), _entries[_entries.length - 1]);
        if (entry.defences == 0) _defend(i, HELD, which % 2, 1, which);
        ChannelState memory state = channels.channel(entry.id);
        if (_now < state.closeAt) _pass(state.closeAt - _now);
        if (finished) channels.finishClose(entry.config);
        vm.assertEq(towers.collect(entry.config), entry.aside, "rewarded");
        _measure("collect");
        rewarded[entry.token] += entry.aside;
        earned[entry.best][entry.token] += entry.aside;
        ++entry.rewards;
        (entry.aside, entry.isOver) = (0, true);
        bytes memory call = abi.encodeCall(ITowers.collect, (entry.config));
        _refused("towersRefusedTwice", address(towers), address(this), call, ITowers.NothingToCollect.selector);
    }

    function pass(uint256 time) external counted("towersPass") {
        _pass(bound(time, 1, 3 days));
    }

    function entries() external view returns (Entry[] memory) {
        return _entries;
    }

    // The ledger

    function _deposit(uint256 payee, uint256 token, uint256 amount) private {
        rewards[token].mint(address(this), amount);
        rewards[token].approve(address(towers), amount);
        towers.deposit(payees[payee], keys[payee], address(rewards[token]), uint128(amount));
        if (token == 1) amount -= (amount + 99) / 100;
        balances[payee][token] += amount;
        paidIn[token] += amount;
    }

    function _announce(uint256 payee, uint256 token, uint128 amount) private {
        vm.prank(payees[payee]);
        towers.announceWithdrawal(keys[payee], address(rewards[token]), amount);
        announced[payee][token] = amount;
        due[payee][token] = amount == 0 ? 0 : _now + 30 days;
    }

    function _defend(uint256 i, uint128 amount, uint256 token, uint96 reward, uint256 tower) private {
        Entry storage entry = _entries[i];
        if (entry.credited == HELD) {
            i = _opened();
            entry = _entries[i];
        }
        amount = uint128(bound(amount, entry.credited + 1, HELD));
        if (balances[entry.payee][token] == 0) _deposit(entry.payee, token, 1e6);
        reward = uint96(bound(reward, 1, balances[entry.payee][token]));
        // An appointment of any amount between what is claimed and the voucher's.
        uint128 appointed = uint128(bound(uint256(keccak256(abi.encode(amount, reward))), entry.credited + 1, amount));
        Appointment memory appointment =
            Appointment(entry.id, appointed, payees[entry.payee], address(rewards[token]), reward, uint64(_now));
        bytes memory signature = _sign(_payeeKey(entry.payee), towers.appointmentDigest(appointment));
        towers.defend(_voucher(entry, amount), appointment, signature, _tower(tower));
        _measure("defend");
        balances[entry.payee][entry.token] += entry.aside;
        balances[entry.payee][token] -= reward;
        (entry.aside, entry.token, entry.credited, entry.best) = (reward, token, amount, _tower(tower));
        ++entry.defences;
    }

    /// A channel that is closing.
    function _closing(uint256 which) private returns (uint256 i) {
        for (uint256 n = 0; n < _entries.length; ++n) {
            i = (which % _entries.length + n) % _entries.length;
            if (!_entries[i].isOver) return i;
        }
        return _opened();
    }

    function _opened() private returns (uint256 i) {
        i = _entries.length;
        Entry storage entry = _entries.push();
        entry.payee = i % 2;
        entry.config = ChannelConfig({
            payer: vm.addr(PAYER),
            payerAuthorizer: vm.addr(AUTHORIZER),
            payee: payees[entry.payee],
            payeeAuthorizer: keys[entry.payee],
            token: address(money),
            withdrawDelay: 1 days,
            salt: bytes32(i)
        });
        entry.id = channels.channelId(entry.config);
        vm.startPrank(vm.addr(PAYER));
        channels.open(entry.config, HELD);
        channels.startClose(entry.config);
        vm.stopPrank();
    }

    function _voucher(Entry storage entry, uint128 amount) private view returns (Claim memory) {
        return Claim(entry.config, amount, _sign(AUTHORIZER, channels.voucherDigest(entry.id, amount)));
    }

    function _payeeKey(uint256 payee) private pure returns (uint256) {
        return uint256(keccak256(payee == 0 ? bytes("payee authorizer") : bytes("payee alone")));
    }

    function _tower(uint256 tower) private pure returns (address) {
        return address(uint160(0x7000 + tower % 3));
    }

    function _of(string memory name) private pure returns (address) {
        return vm.addr(uint256(keccak256(bytes(name))));
    }
}

/// C1 and C2 for rewards, C7 for channels that are defended, and one reward at most for each; C11 for defences.
/// forge-config: default.isolate = true
contract TowersInvariants is Campaign {
    TowersWorld private world;

    function setUp() public {
        world = new TowersWorld();
    }

    function _target() internal view override returns (address, bytes4[] memory selectors) {
        selectors = new bytes4[](9);
        selectors[0] = TowersWorld.deposit.selector;
        selectors[1] = TowersWorld.announce.selector;
        selectors[2] = TowersWorld.withdraw.selector;
        selectors[3] = TowersWorld.defend.selector;
        selectors[4] = TowersWorld.replace.selector;
        selectors[5] = TowersWorld.claim.selector;
        selectors[6] = TowersWorld.late.selector;
        selectors[7] = TowersWorld.collect.selector;
        selectors[8] = TowersWorld.pass.selector;
        return (address(world), selectors);
    }

    function invariant_C1_C2_rewardsAreCoveredByWhatWasDeposited() public view {
        TowersWorld.Entry[] memory entries = world.entries();
        for (uint256 t = 0; t < 2; ++t) {
            uint256 owed;
            for (uint256 p = 0; p < 2; ++p) {
                uint256 balance =
                    world.towers().account(world.payees(p), world.keys(p), address(world.rewards(t))).balance;
                vm.assertEq(balance, world.balances(p, t), "balance");
                owed += balance;
            }
            for (uint256 i = 0; i < entries.length; ++i) {
                if (entries[i].token == t) owed += entries[i].aside;
            }
            uint256 held = world.rewards(t).balanceOf(address(world.towers()));
            vm.assertEq(held, owed, "C1: held is not owed");
            vm.assertEq(held + world.rewarded(t) + world.withdrawn(t), world.paidIn(t), "C2: in is not out + held");
            vm.assertLe(world.rewarded(t), world.paidIn(t), "more rewards than deposits");
        }
    }

    function invariant_C7_eachChannelPaysOneRewardAtMostAndWhatItWouldAnyway() public view {
        TowersWorld.Entry[] memory entries = world.entries();
        for (uint256 i = 0; i < entries.length; ++i) {
            ChannelState memory state = world.channels().channel(entries[i].id);
            vm.assertEq(state.claimed, entries[i].credited, "C7: claimed");
            vm.assertLe(entries[i].rewards, 1, "more than one reward");
            vm.assertTrue((state.status == Status.Closed) == entries[i].isOver, "status");
            vm.assertEq(world.towers().defence(entries[i].id).reward, entries[i].aside, "aside");
        }
    }

    function invariant_C11_gasOfDefencesIsBounded() public view {
        world.requireGasIsBounded();
    }

    function invariant_C2_towersEarnWhatTheyWerePaid() public view {
        for (uint160 tower = 0x7000; tower < 0x7003; ++tower) {
            // The other token keeps a fee.
            uint256 balance = world.rewards(0).balanceOf(address(tower));
            vm.assertEq(balance, world.earned(address(tower), 0), "earned");
        }
    }
}
