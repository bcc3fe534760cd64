// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {TestToken} from "../src/TestToken.sol";
import {Towers} from "../src/Towers.sol";
import {IChannels} from "../src/interfaces/IChannels.sol";
import {ITowers} from "../src/interfaces/ITowers.sol";
import {Appointment, Defence, RewardAccount} from "../src/types/Appointment.sol";
import {ChannelConfig, Claim, Status} from "../src/types/Channel.sol";
import {ChannelsTest, Person} from "./support/ChannelsTest.sol";
import {FeeToken, IdleToken, ReentrantToken} from "./support/Tokens.sol";
import {Wallet} from "./support/Wallet.sol";
import {vm} from "./support/Vm.sol";

contract TowersTest is ChannelsTest {
    Towers private towers;
    Person private tower = person("tower");
    Person private second = person("second tower");
    ChannelConfig private config;
    bytes32 private id;

    uint128 private constant REWARD = UNIT / 10;
    uint64 private constant EXPIRY = 1_800_000_000 + 20 days;

    function setUp() public override {
        super.setUp();
        towers = new Towers(channels);
        token.mint(payee.account, 100 * UNIT);
        vm.startPrank(payee.account);
        token.approve(address(towers), type(uint256).max);
        towers.deposit(payee.account, payeeAuthorizer.account, address(token), 10 * REWARD);
        vm.stopPrank();
        (config, id) = opened(10 * UNIT);
    }

    // Defence

    function test_defend_creditsThePayeeAndIsPaidAfterTheClose() public {
        _startClose();
        Claim memory last = voucher(config, 6 * UNIT);
        Appointment memory appointment = _appointment(5 * UNIT, REWARD);
        bytes memory signed = _signed(appointment, payeeAuthorizer.key);
        vm.expectEmit(address(towers));
        emit ITowers.Defended(id, payee.account, tower.account, 6 * UNIT, address(token), REWARD);
        towers.defend(last, appointment, signed, tower.account);
        vm.assertEq(claimable(payee.account), 6 * UNIT);
        vm.assertEq(_balance(), 9 * REWARD);
        Defence memory best = towers.defence(id);
        vm.assertEq(best.beneficiary, tower.account);
        vm.assertEq(best.reward, REWARD);
        vm.assertEq(token.balanceOf(tower.account), 0);

        vm.warp(vm.getBlockTimestamp() + config.withdrawDelay);
        vm.expectEmit(address(towers));
        emit ITowers.Rewarded(id, tower.account, address(token), REWARD);
        vm.prank(stranger.account);
        vm.assertEq(towers.collect(config), REWARD);
        vm.assertEq(token.balanceOf(tower.account), REWARD);
        assertChannel(id, 10 * UNIT, 6 * UNIT, 1_800_000_000 + 1 days, Status.Closed);
        expectRefusal(ITowers.NothingToCollect.selector, id);
        towers.collect(config);
    }

    function test_collect_afterSomebodyElseFinishedOrTheSidesAgreed() public {
        _startClose();
        _defend(6 * UNIT, _appointment(5 * UNIT, REWARD), tower.account);
        uint256 state = vm.snapshotState();
        vm.warp(vm.getBlockTimestamp() + config.withdrawDelay);
        channels.finishClose(config);
        towers.collect(config);
        vm.assertEq(token.balanceOf(tower.account), REWARD);
        vm.revertToState(state);
        channels.closeCooperatively(voucher(config, 7 * UNIT), closeSignature(config, 7 * UNIT, payeeAuthorizer.key));
        towers.collect(config);
        vm.assertEq(token.balanceOf(tower.account), REWARD);
    }

    function test_collect_revertsBeforeTheCloseCanBeFinished() public {
        _startClose();
        _defend(6 * UNIT, _appointment(5 * UNIT, REWARD), tower.account);
        uint40 closeAt = channels.channel(id).closeAt;
        vm.expectRevert(abi.encodeWithSelector(IChannels.CloseTooEarly.selector, id, closeAt));
        towers.collect(config);
    }

    function test_defend_replacesALowerDefenceAndPaysOneReward() public {
        _startClose();
        _defend(2 * UNIT, _appointment(1 * UNIT, 3 * REWARD), tower.account);
        vm.assertEq(_balance(), 7 * REWARD);
        _defend(6 * UNIT, _appointment(5 * UNIT, REWARD), second.account);
        vm.assertEq(_balance(), 9 * REWARD);
        vm.warp(vm.getBlockTimestamp() + config.withdrawDelay);
        towers.collect(config);
        vm.assertEq(token.balanceOf(tower.account), 0);
        vm.assertEq(token.balanceOf(second.account), REWARD);
        vm.assertEq(token.balanceOf(address(towers)), 9 * REWARD);
    }

    /// The reward that went back can pay for the one that replaces it.
    function test_defend_replacesThoughTheAccountHoldsOneRewardOnly() public {
        _startClose();
        _defend(2 * UNIT, _appointment(1 * UNIT, 10 * REWARD), tower.account);
        vm.assertEq(_balance(), 0);
        _defend(6 * UNIT, _appointment(5 * UNIT, 10 * REWARD), second.account);
        vm.assertEq(_balance(), 0);
    }

    function test_defend_replacesARewardInAnotherToken() public {
        TestToken other = new TestToken();
        other.mint(address(this), REWARD);
        other.approve(address(towers), REWARD);
        towers.deposit(payee.account, payeeAuthorizer.account, address(other), REWARD);
        _startClose();
        Appointment memory inOther = _appointment(1 * UNIT, REWARD);
        inOther.token = address(other);
        _defend(2 * UNIT, inOther, tower.account);
        _defend(6 * UNIT, _appointment(5 * UNIT, REWARD), second.account);
        vm.assertEq(towers.account(payee.account, payeeAuthorizer.account, address(other)).balance, REWARD);
        vm.assertEq(_balance(), 9 * REWARD);
    }

    function test_defend_refusesWhoIsLateBeforeLookingAtSignatures() public {
        _startClose();
        _defend(6 * UNIT, _appointment(5 * UNIT, REWARD), tower.account);
        Claim memory last = voucher(config, 6 * UNIT);
        (last.signature, last.config.payee) = ("", address(0));
        vm.expectRevert(abi.encodeWithSelector(ITowers.AlreadyClaimed.selector, id, 6 * UNIT));
        towers.defend(last, _appointment(6 * UNIT, REWARD), "", second.account);
    }

    function test_defend_revertsIfThePayeeClaimedItself() public {
        _startClose();
        claim(config, 5 * UNIT);
        Claim memory last = voucher(config, 6 * UNIT);
        Appointment memory appointment = _appointment(5 * UNIT, REWARD);
        bytes memory signed = _signed(appointment, payeeAuthorizer.key);
        vm.expectRevert(abi.encodeWithSelector(ITowers.AlreadyClaimed.selector, id, 5 * UNIT));
        towers.defend(last, appointment, signed, tower.account);
    }

    function test_defend_revertsUnlessTheChannelIsClosing() public {
        Claim memory last = voucher(config, 6 * UNIT);
        Appointment memory appointment = _appointment(5 * UNIT, REWARD);
        bytes memory signed = _signed(appointment, payeeAuthorizer.key);
        expectRefusal(ITowers.ChannelNotClosing.selector, id);
        towers.defend(last, appointment, signed, tower.account);
        _startClose();
        vm.warp(vm.getBlockTimestamp() + config.withdrawDelay);
        uint256 state = vm.snapshotState();
        // Its time is over, but nobody has finished it.
        towers.defend(last, appointment, signed, tower.account);
        vm.revertToState(state);
        channels.finishClose(config);
        expectRefusal(ITowers.ChannelNotClosing.selector, id);
        towers.defend(last, appointment, signed, tower.account);
    }

    function test_defend_countsThroughTheExpiryAndNotAfter() public {
        vm.warp(EXPIRY);
        _startClose();
        uint256 state = vm.snapshotState();
        _defend(6 * UNIT, _appointment(5 * UNIT, REWARD), tower.account);
        vm.revertToState(state);
        vm.warp(EXPIRY + 1);
        _refused(
            abi.encodeWithSelector(ITowers.AppointmentExpired.selector, EXPIRY),
            6 * UNIT,
            _appointment(5 * UNIT, REWARD),
            payeeAuthorizer.key
        );
    }

    function test_defend_revertsIfTheAppointmentDoesNotFit() public {
        _startClose();
        Appointment memory appointment = _appointment(5 * UNIT, REWARD);
        _refused(
            abi.encodeWithSelector(ITowers.VoucherTooSmall.selector, 5 * UNIT - 1, 5 * UNIT),
            5 * UNIT - 1,
            appointment,
            payeeAuthorizer.key
        );
        appointment.payee = stranger.account;
        _refused(
            abi.encodeWithSelector(ITowers.AppointmentOfAnother.selector, id),
            5 * UNIT,
            appointment,
            payeeAuthorizer.key
        );
        _refused(
            abi.encodeWithSelector(ITowers.AmountZero.selector),
            5 * UNIT,
            _appointment(5 * UNIT, 0),
            payeeAuthorizer.key
        );
        _refused(
            abi.encodeWithSelector(ITowers.RewardTooLarge.selector, uint256(1 << 96)),
            5 * UNIT,
            _appointment(5 * UNIT, 1 << 96),
            payeeAuthorizer.key
        );
        _refused(
            abi.encodeWithSelector(ITowers.RewardUncovered.selector, 10 * REWARD, 10 * REWARD + 1),
            5 * UNIT,
            _appointment(5 * UNIT, 10 * REWARD + 1),
            payeeAuthorizer.key
        );
        Appointment memory sane = _appointment(5 * UNIT, REWARD);
        bytes memory signed = _signed(sane, payeeAuthorizer.key);
        Claim memory last = voucher(config, 5 * UNIT);
        vm.expectRevert(abi.encodeWithSelector(ITowers.RecipientInvalid.selector, address(0)));
        towers.defend(last, sane, signed, address(0));
        // Another channel's config.
        last.config.salt = bytes32(uint256(2));
        expectRefusal(ITowers.AppointmentOfAnother.selector, id);
        towers.defend(last, sane, signed, tower.account);
    }

    function test_defend_revertsUnlessThePayeesSideSigned() public {
        _startClose();
        Appointment memory appointment = _appointment(5 * UNIT, REWARD);
        bytes memory wrong = abi.encodeWithSelector(ITowers.AppointmentSignatureInvalid.selector, id);
        _refused(wrong, 5 * UNIT, appointment, payerAuthorizer.key);
        // The wallet named an authorizer for this channel, so it does not sign itself.
        _refused(wrong, 5 * UNIT, appointment, payee.key);
        bytes memory signed = _signed(appointment, payeeAuthorizer.key);
        Claim memory last = voucher(config, 5 * UNIT);
        appointment.reward = 2 * REWARD;
        vm.expectRevert(wrong);
        towers.defend(last, appointment, signed, tower.account);
        Towers other = new Towers(channels);
        appointment.reward = REWARD;
        vm.expectRevert(wrong);
        other.defend(last, appointment, signed, tower.account);
    }

    function test_defend_revertsIfTheVoucherIsWrong() public {
        _startClose();
        Appointment memory appointment = _appointment(5 * UNIT, REWARD);
        bytes memory signed = _signed(appointment, payeeAuthorizer.key);
        Claim memory forged = voucher(config, 6 * UNIT, stranger.key);
        expectRefusal(IChannels.VoucherSignatureInvalid.selector, id);
        towers.defend(forged, appointment, signed, tower.account);
        Claim memory beyond = voucher(config, 11 * UNIT);
        vm.expectRevert(abi.encodeWithSelector(IChannels.AmountAboveReserved.selector, id, 11 * UNIT, 10 * UNIT));
        towers.defend(beyond, appointment, signed, tower.account);
        vm.assertEq(_balance(), 10 * REWARD);
        vm.assertEq(towers.defence(id).beneficiary, address(0));
    }

    /// Whoever opens a channel writes any payee and any authorizer into it, so that says nothing about reward money.
    function test_defend_pastAnAuthorizerThatThePayeeNeverHadTakesNothing() public {
        ChannelConfig memory forged = config;
        (forged.payeeAuthorizer, forged.salt) = (stranger.account, bytes32(uint256(9)));
        bytes32 forgedId = open(forged, UNIT);
        vm.prank(payer.account);
        channels.startClose(forged);
        Appointment memory appointment = _appointment(UNIT, 10 * REWARD);
        appointment.channelId = forgedId;
        bytes memory signed = _signed(appointment, stranger.key);
        Claim memory last = voucher(forged, UNIT);
        vm.expectRevert(abi.encodeWithSelector(ITowers.RewardUncovered.selector, 0, 10 * REWARD));
        towers.defend(last, appointment, signed, stranger.account);
    }

    function test_defend_ofAPayeeWithoutAuthorizerIsSignedByItsWallet() public {
        Wallet wallet = new Wallet(payee.account);
        config.payee = address(wallet);
        config.payeeAuthorizer = address(0);
        id = open(config, 10 * UNIT);
        token.mint(address(this), REWARD);
        token.approve(address(towers), REWARD);
        towers.deposit(address(wallet), address(0), address(token), REWARD);
        _startClose();
        Appointment memory appointment = _appointment(5 * UNIT, REWARD);
        appointment.payee = address(wallet);
        bytes memory signed = _signed(appointment, payee.key);
        towers.defend(voucher(config, 5 * UNIT), appointment, signed, tower.account);
        vm.assertEq(claimable(address(wallet)), 5 * UNIT);
    }

    /// C7: what the channel pays is the same with this contract, with another sender, and without.
    function testFuzz_defend_leavesTheChannelAsAPlainClaimDoes(uint128 amount, uint128 appointed, address sender)
        public
    {
        amount = amount % (10 * UNIT) + 1;
        appointed = appointed % amount + 1;
        vm.assume(sender != address(vm));
        _startClose();
        Claim memory last = voucher(config, amount);
        Appointment memory appointment = _appointment(appointed, REWARD);
        bytes memory signed = _signed(appointment, payeeAuthorizer.key);
        uint256 state = vm.snapshotState();
        channels.claim(one(last));
        uint256 credited = claimable(payee.account);
        bytes memory plain = abi.encode(channels.channel(id));
        vm.revertToState(state);
        vm.prank(sender);
        towers.defend(last, appointment, signed, tower.account);
        vm.assertEq(abi.encode(channels.channel(id)), plain);
        vm.assertEq(claimable(payee.account), credited);
        vm.assertEq(token.balanceOf(address(channels)), 1000 * UNIT);
    }

    // Reward money

    function test_deposit_creditsWhatArrivesToWhomeverItIsFor() public {
        FeeToken taxed = new FeeToken();
        taxed.mint(stranger.account, 1000);
        vm.startPrank(stranger.account);
        taxed.approve(address(towers), 1000);
        towers.deposit(payee.account, payeeAuthorizer.account, address(taxed), 1000);
        vm.stopPrank();
        vm.assertEq(towers.account(payee.account, payeeAuthorizer.account, address(taxed)).balance, 990);
        vm.assertEq(towers.account(payee.account, address(0), address(taxed)).balance, 0);
    }

    function test_deposit_revertsIfNothingComesOrNobodyIsNamed() public {
        IdleToken idle = new IdleToken();
        vm.expectRevert(abi.encodeWithSelector(ITowers.NothingReceived.selector, address(idle)));
        towers.deposit(payee.account, address(0), address(idle), 1);
        vm.expectRevert(ITowers.AmountZero.selector);
        towers.deposit(payee.account, address(0), address(token), 0);
        vm.expectRevert(abi.encodeWithSelector(ITowers.RecipientInvalid.selector, address(0)));
        towers.deposit(address(0), address(0), address(token), 1);
    }

    function test_withdraw_waitsForTheNotice() public {
        address key = payeeAuthorizer.account;
        vm.startPrank(payee.account);
        vm.expectRevert(abi.encodeWithSelector(ITowers.WithdrawalTooEarly.selector, 0));
        towers.withdraw(key, address(token), payee.account);
        towers.announceWithdrawal(key, address(token), 4 * REWARD);
        vm.assertEq(towers.covered(payee.account, key, address(token)), 6 * REWARD);
        uint40 due = uint40(vm.getBlockTimestamp()) + towers.NOTICE();
        vm.warp(due - 1);
        vm.expectRevert(abi.encodeWithSelector(ITowers.WithdrawalTooEarly.selector, due));
        towers.withdraw(key, address(token), payee.account);
        vm.warp(due);
        uint256 before = token.balanceOf(payee.account);
        vm.assertEq(towers.withdraw(key, address(token), payee.account), 4 * REWARD);
        vm.assertEq(token.balanceOf(payee.account) - before, 4 * REWARD);
        vm.expectRevert(abi.encodeWithSelector(ITowers.WithdrawalTooEarly.selector, 0));
        towers.withdraw(key, address(token), payee.account);
        vm.assertEq(towers.covered(payee.account, key, address(token)), 6 * REWARD);
        vm.stopPrank();
    }

    function test_withdraw_ofWhatRewardsLeft() public {
        address key = payeeAuthorizer.account;
        vm.prank(payee.account);
        towers.announceWithdrawal(key, address(token), 20 * REWARD);
        vm.assertEq(towers.covered(payee.account, key, address(token)), 0);
        _startClose();
        // Announced money still pays.
        _defend(6 * UNIT, _appointment(5 * UNIT, 3 * REWARD), tower.account);
        vm.warp(vm.getBlockTimestamp() + towers.NOTICE());
        vm.prank(payee.account);
        vm.assertEq(towers.withdraw(key, address(token), stranger.account), 7 * REWARD);
        towers.collect(config);
        vm.assertEq(token.balanceOf(address(towers)), 0);
    }

    function test_announceWithdrawal_againStartsTheNoticeAnewAndZeroEndsIt() public {
        address key = payeeAuthorizer.account;
        vm.startPrank(payee.account);
        towers.announceWithdrawal(key, address(token), REWARD);
        vm.warp(vm.getBlockTimestamp() + 10 days);
        towers.announceWithdrawal(key, address(token), 5 * REWARD);
        RewardAccount memory found = towers.account(payee.account, key, address(token));
        vm.assertEq(found.due, vm.getBlockTimestamp() + 30 days);
        vm.assertEq(found.announced, 5 * REWARD);
        towers.announceWithdrawal(key, address(token), 0);
        vm.warp(vm.getBlockTimestamp() + 60 days);
        vm.expectRevert(abi.encodeWithSelector(ITowers.WithdrawalTooEarly.selector, 0));
        towers.withdraw(key, address(token), payee.account);
        vm.stopPrank();
    }

    function test_nobodyElseWithdraws() public {
        vm.startPrank(payeeAuthorizer.account);
        towers.announceWithdrawal(payeeAuthorizer.account, address(token), REWARD);
        vm.warp(vm.getBlockTimestamp() + 30 days);
        vm.expectRevert(ITowers.AmountZero.selector);
        towers.withdraw(payeeAuthorizer.account, address(token), payeeAuthorizer.account);
        vm.stopPrank();
    }

    function test_everyFunction_isShutDuringTokenCalls() public {
        ReentrantToken wicked = new ReentrantToken();
        wicked.mint(stranger.account, 10);
        vm.prank(stranger.account);
        wicked.approve(address(towers), 10);
        bytes[] memory inner = new bytes[](5);
        Appointment memory appointment = _appointment(5 * UNIT, REWARD);
        inner[0] = abi.encodeCall(ITowers.deposit, (payee.account, address(0), address(wicked), 1));
        inner[1] = abi.encodeCall(ITowers.announceWithdrawal, (address(0), address(wicked), 1));
        inner[2] = abi.encodeCall(ITowers.withdraw, (address(0), address(wicked), payee.account));
        inner[3] = abi.encodeCall(
            ITowers.defend,
            (voucher(config, 5 * UNIT), appointment, _signed(appointment, payeeAuthorizer.key), tower.account)
        );
        inner[4] = abi.encodeCall(ITowers.collect, (config));
        for (uint256 i = 0; i < inner.length; ++i) {
            wicked.arm(address(towers), inner[i]);
            vm.prank(stranger.account);
            towers.deposit(stranger.account, address(0), address(wicked), 1);
            vm.assertFalse(wicked.entered());
            vm.assertEq(
                wicked.answer(), abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector)
            );
        }
    }

    function _startClose() private {
        vm.prank(payer.account);
        channels.startClose(config);
    }

    function _appointment(uint128 amount, uint128 reward) private view returns (Appointment memory) {
        return Appointment(id, amount, payee.account, address(token), reward, EXPIRY);
    }

    function _signed(Appointment memory appointment, uint256 key) private view returns (bytes memory) {
        return signature(key, towers.appointmentDigest(appointment));
    }

    function _defend(uint128 amount, Appointment memory appointment, address beneficiary) private {
        towers.defend(voucher(config, amount), appointment, _signed(appointment, payeeAuthorizer.key), beneficiary);
    }

    function _refused(bytes memory reason, uint128 amount, Appointment memory appointment, uint256 key) private {
        Claim memory last = voucher(config, amount);
        bytes memory signed = _signed(appointment, key);
        vm.expectRevert(reason);
        towers.defend(last, appointment, signed, tower.account);
    }

    function _balance() private view returns (uint256) {
        return towers.account(payee.account, payeeAuthorizer.account, address(token)).balance;
    }
}
