// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IChannels} from "../src/interfaces/IChannels.sol";
import {ChannelConfig, Claim, Status} from "../src/types/Channel.sol";
import {ChannelsTest} from "./support/ChannelsTest.sol";
import {Wallet} from "./support/Wallet.sol";
import {bound, vm} from "./support/Vm.sol";

contract CloseTest is ChannelsTest {
    function test_closeCooperatively_creditsVoucherAndRefundsRest(uint128 amount, address sender) public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        uint256 before = deposits(payer.account);
        amount = uint128(bound(amount, 0, UNIT));
        Claim memory last = voucher(config, amount);
        bytes memory agreed = closeSignature(config, amount, payeeAuthorizer.key);
        vm.expectEmit(address(channels));
        if (amount != 0) emit IChannels.Claimed(id, payee.account, address(token), amount);
        if (amount != 0) vm.expectEmit(address(channels));
        emit IChannels.Closed(id, payer.account, payee.account, amount, UNIT - amount);
        vm.prank(sender);
        channels.closeCooperatively(last, agreed);
        assertChannel(id, UNIT, amount, 0, Status.Closed);
        vm.assertEq(claimable(payee.account), amount);
        vm.assertEq(deposits(payer.account), before + UNIT - amount);
    }

    function test_closeCooperatively_needsNoVoucherIfEnoughIsClaimed() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        claim(config, UNIT / 2);
        bytes memory agreed = closeSignature(config, UNIT / 4, payeeAuthorizer.key);
        channels.closeCooperatively(Claim(config, UNIT / 4, ""), agreed);
        assertChannel(id, UNIT, UNIT / 2, 0, Status.Closed);
        vm.assertEq(claimable(payee.account), UNIT / 2);
    }

    function test_closeCooperatively_needsNoSignatureOfItsSender() public {
        address[2] memory senders = [payee.account, payeeAuthorizer.account];
        for (uint256 i = 0; i < senders.length; ++i) {
            ChannelConfig memory config = usualConfig();
            config.salt = bytes32(i);
            bytes32 id = open(config, UNIT);
            Claim memory last = voucher(config, 5);
            vm.prank(senders[i]);
            channels.closeCooperatively(last, "");
            assertChannel(id, UNIT, 5, 0, Status.Closed);
        }
    }

    function test_closeCooperatively_endsCloseThatWasStarted() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        vm.prank(payer.account);
        channels.startClose(config);
        uint256 closeAt = vm.getBlockTimestamp() + config.withdrawDelay;
        channels.closeCooperatively(voucher(config, 5), closeSignature(config, 5, payeeAuthorizer.key));
        assertChannel(id, UNIT, 5, closeAt, Status.Closed);
    }

    function test_closeCooperatively_asksPayeeItselfIfItNamedNoAuthorizer() public {
        ChannelConfig memory config = usualConfig();
        config.payeeAuthorizer = address(0);
        bytes32 id = open(config, UNIT);
        _disagreed(voucher(config, 5), closeSignature(config, 5, payeeAuthorizer.key), id);
        channels.closeCooperatively(voucher(config, 5), closeSignature(config, 5, payee.key));
        assertChannel(id, UNIT, 5, 0, Status.Closed);
    }

    function test_closeCooperatively_asksWalletOfPayee() public {
        ChannelConfig memory config = usualConfig();
        (config.payee, config.payeeAuthorizer) = (address(new Wallet(payee.account)), address(0));
        bytes32 id = open(config, UNIT);
        _disagreed(voucher(config, 5), closeSignature(config, 5, stranger.key), id);
        channels.closeCooperatively(voucher(config, 5), closeSignature(config, 5, payee.key));
        assertChannel(id, UNIT, 5, 0, Status.Closed);
    }

    function test_closeCooperatively_revertsIfPayeeSideDidNotSign() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        // The payee has named an authorizer, so its own signature does not count; nor does one for another amount, for
        // another message or of another form.
        _disagreed(voucher(config, 5), closeSignature(config, 5, payee.key), id);
        _disagreed(voucher(config, 5), closeSignature(config, 6, payeeAuthorizer.key), id);
        _disagreed(voucher(config, 5), closeSignature(config, 4, payeeAuthorizer.key), id);
        _disagreed(voucher(config, 5), voucher(config, 5, payeeAuthorizer.key).signature, id);
        _disagreed(voucher(config, 5), "", id);
        vm.startPrank(payer.account);
        _disagreed(voucher(config, 5), "", id);
    }

    function test_closeCooperatively_revertsIfZeroIsBothSenderAndAuthorizer() public {
        ChannelConfig memory config = usualConfig();
        config.payeeAuthorizer = address(0);
        bytes32 id = open(config, UNIT);
        Claim memory last = voucher(config, 0);
        vm.startPrank(address(0));
        _disagreed(last, "", id);
    }

    function test_closeCooperatively_revertsIfVoucherIsNotSigned() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        vm.startPrank(payee.account);
        expectRefusal(IChannels.VoucherSignatureInvalid.selector, id);
        channels.closeCooperatively(Claim(config, 1, ""), "");
    }

    function test_closeCooperatively_revertsIfAboveReserved() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        Claim memory last = voucher(config, UNIT + 1);
        vm.startPrank(payee.account);
        vm.expectRevert(abi.encodeWithSelector(IChannels.AmountAboveReserved.selector, id, UNIT + 1, UNIT));
        channels.closeCooperatively(last, "");
    }

    function test_closeCooperatively_revertsIfUnknownOrClosed() public {
        ChannelConfig memory config = usualConfig();
        bytes32 id = channels.channelId(config);
        Claim memory last = voucher(config, 1);
        vm.startPrank(payee.account);
        expectRefusal(IChannels.ChannelUnknown.selector, id);
        channels.closeCooperatively(last, "");
        vm.stopPrank();
        open(config, UNIT);
        vm.startPrank(payee.account);
        channels.closeCooperatively(last, "");
        expectRefusal(IChannels.ChannelClosed.selector, id);
        channels.closeCooperatively(last, "");
    }

    function test_startClose_setsTheTime() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        claim(config, 5);
        uint40 closeAt = uint40(vm.getBlockTimestamp()) + config.withdrawDelay;
        vm.expectEmit(address(channels));
        emit IChannels.CloseStarted(id, payer.account, payee.account, closeAt);
        vm.prank(payer.account);
        channels.startClose(config);
        assertChannel(id, UNIT, 5, closeAt, Status.Closing);
    }

    function test_startClose_revertsIfSenderIsNotPayer() public {
        (ChannelConfig memory config,) = opened(UNIT);
        vm.prank(payerAuthorizer.account);
        vm.expectRevert(
            abi.encodeWithSelector(IChannels.SenderNotPayer.selector, payerAuthorizer.account, payer.account)
        );
        channels.startClose(config);
    }

    function test_startClose_revertsIfUnknownClosingOrClosed() public {
        ChannelConfig memory config = usualConfig();
        bytes32 id = channels.channelId(config);
        vm.startPrank(payer.account);
        expectRefusal(IChannels.ChannelUnknown.selector, id);
        channels.startClose(config);
        channels.open(config, UNIT);
        channels.startClose(config);
        // It cannot be put off, either.
        vm.warp(vm.getBlockTimestamp() + 5);
        expectRefusal(IChannels.ChannelNotOpen.selector, id);
        channels.startClose(config);
        vm.warp(vm.getBlockTimestamp() + config.withdrawDelay);
        channels.finishClose(config);
        expectRefusal(IChannels.ChannelNotOpen.selector, id);
        channels.startClose(config);
    }

    function test_finishClose_refundsWhatIsNotClaimed(uint128 amount, address sender) public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        uint256 before = deposits(payer.account);
        amount = uint128(bound(amount, 0, UNIT));
        vm.prank(payer.account);
        channels.startClose(config);
        claim(config, amount);
        uint256 closeAt = vm.getBlockTimestamp() + config.withdrawDelay;
        vm.warp(closeAt);
        vm.expectEmit(address(channels));
        emit IChannels.Closed(id, payer.account, payee.account, amount, UNIT - amount);
        vm.prank(sender);
        channels.finishClose(config);
        assertChannel(id, UNIT, amount, closeAt, Status.Closed);
        vm.assertEq(deposits(payer.account), before + UNIT - amount);
        vm.assertEq(claimable(payee.account), amount);
    }

    function test_finishClose_revertsIfTooEarly(uint256 early) public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        vm.prank(payer.account);
        channels.startClose(config);
        uint256 closeAt = vm.getBlockTimestamp() + config.withdrawDelay;
        vm.warp(closeAt - bound(early, 1, config.withdrawDelay));
        vm.expectRevert(abi.encodeWithSelector(IChannels.CloseTooEarly.selector, id, uint40(closeAt)));
        channels.finishClose(config);
    }

    function test_finishClose_revertsIfUnknownOpenOrClosed() public {
        ChannelConfig memory config = usualConfig();
        bytes32 id = channels.channelId(config);
        expectRefusal(IChannels.ChannelUnknown.selector, id);
        channels.finishClose(config);
        open(config, UNIT);
        expectRefusal(IChannels.ChannelNotClosing.selector, id);
        channels.finishClose(config);
        vm.prank(payer.account);
        channels.startClose(config);
        vm.warp(vm.getBlockTimestamp() + config.withdrawDelay);
        channels.finishClose(config);
        expectRefusal(IChannels.ChannelClosed.selector, id);
        channels.finishClose(config);
    }

    function test_close_keepsOtherChannelsMoney() public {
        (ChannelConfig memory config,) = opened(UNIT);
        ChannelConfig memory other = usualConfig();
        other.salt = bytes32(uint256(2));
        bytes32 otherId = open(other, UNIT);
        channels.closeCooperatively(voucher(config, 5), closeSignature(config, 5, payeeAuthorizer.key));
        assertChannel(otherId, UNIT, 0, 0, Status.Open);
        claim(other, UNIT);
        vm.assertEq(channels.sweep(payee.account, address(token)), UNIT + 5);
    }

    function _disagreed(Claim memory last, bytes memory agreed, bytes32 id) private {
        expectRefusal(IChannels.CloseSignatureInvalid.selector, id);
        channels.closeCooperatively(last, agreed);
    }
}
