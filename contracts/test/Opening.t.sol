// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IChannels} from "../src/interfaces/IChannels.sol";
import {Digests} from "../src/libraries/Digests.sol";
import {ChannelConfig, ChannelState, Status} from "../src/types/Channel.sol";
import {ChannelsTest} from "./support/ChannelsTest.sol";
import {PlainOpening} from "./support/PlainOpening.sol";
import {Vm, bound, vm} from "./support/Vm.sol";

contract OpeningTest is ChannelsTest {
    function test_open_movesDepositIntoChannel(uint128 amount) public {
        uint256 before = deposits(payer.account);
        amount = uint128(bound(amount, 1, before));
        ChannelConfig memory config = usualConfig();
        bytes32 id = channels.channelId(config);
        vm.expectEmit(address(channels));
        emit IChannels.Opened(
            id,
            config.payer,
            config.payee,
            config.payerAuthorizer,
            config.payeeAuthorizer,
            config.token,
            config.withdrawDelay,
            config.salt,
            amount
        );
        open(config, amount);
        assertChannel(id, amount, 0, 0, Status.Open);
        vm.assertEq(deposits(payer.account), before - amount);
    }

    function test_open_revertsIfSenderIsNotPayer() public {
        vm.prank(stranger.account);
        vm.expectRevert(abi.encodeWithSelector(IChannels.SenderNotPayer.selector, stranger.account, payer.account));
        channels.open(usualConfig(), UNIT);
    }

    function test_open_revertsIfAmountIsZero() public {
        _refused(usualConfig(), 0, abi.encodeWithSelector(IChannels.AmountZero.selector));
    }

    function test_open_revertsIfAmountIsTooLarge() public {
        uint128 most = type(uint104).max;
        fund(payer.account, most);
        _refused(usualConfig(), most + 1, abi.encodeWithSelector(IChannels.AmountTooLarge.selector, most + 1));
        bytes32 id = open(usualConfig(), most);
        assertChannel(id, most, 0, 0, Status.Open);
    }

    function test_open_revertsIfTokenIsZero() public {
        ChannelConfig memory config = usualConfig();
        config.token = address(0);
        _refused(config, UNIT, abi.encodeWithSelector(IChannels.TokenInvalid.selector, address(0)));
    }

    function test_open_revertsIfPayeeIsZero() public {
        ChannelConfig memory config = usualConfig();
        config.payee = address(0);
        _refused(config, UNIT, abi.encodeWithSelector(IChannels.RecipientInvalid.selector, address(0)));
    }

    function test_open_revertsIfDelayIsOutOfRange() public {
        ChannelConfig memory config = usualConfig();
        uint40[4] memory delays = [0, 15 minutes - 1, 30 days + 1, type(uint40).max];
        for (uint256 i = 0; i < delays.length; ++i) {
            config.withdrawDelay = delays[i];
            _refused(config, UNIT, abi.encodeWithSelector(IChannels.WithdrawDelayInvalid.selector, delays[i]));
        }
        config.withdrawDelay = 15 minutes;
        open(config, UNIT);
        config.withdrawDelay = 30 days;
        open(config, UNIT);
    }

    function test_open_revertsIfDepositIsTooSmall() public {
        uint256 available = deposits(payer.account);
        _refused(
            usualConfig(),
            uint128(available + 1),
            abi.encodeWithSelector(
                IChannels.DepositTooSmall.selector, payer.account, address(token), available, available + 1
            )
        );
    }

    function test_open_revertsIfChannelExists() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        _refused(config, UNIT, abi.encodeWithSelector(IChannels.ChannelExists.selector, id));
    }

    function test_open_revertsIfChannelWasClosed() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        vm.startPrank(payee.account);
        channels.closeCooperatively(voucher(config, 0), "");
        vm.stopPrank();
        _refused(config, UNIT, abi.encodeWithSelector(IChannels.ChannelExists.selector, id));
    }

    function test_open_revertsIfConfigHasDirtyBits(uint256 member, uint256 bit) public {
        bytes memory data = abi.encodeCall(IChannels.open, (usualConfig(), UNIT));
        uint256 width = (member = bound(member, 0, 5)) == 5 ? 40 : 160;
        bit = bound(bit, width, 255);
        assembly ("memory-safe") {
            let place := add(add(data, 0x24), mul(member, 0x20))
            mstore(place, xor(mload(place), shl(bit, 1)))
        }
        vm.prank(payer.account);
        (bool done, bytes memory answer) = address(channels).call(data);
        vm.assertFalse(done);
        vm.assertEq(answer, abi.encodeWithSelector(IChannels.ConfigMalformed.selector));
    }

    function test_open_doesAsItsPlainTwin(
        ChannelConfig memory config,
        uint128 amount,
        uint256 available,
        uint256 change
    ) public {
        config.withdrawDelay = uint40(bound(config.withdrawDelay, 14 minutes, 31 days));
        available = bound(available, 0, type(uint128).max);
        change = bound(change, 0, 15);
        if (change > 2) amount = uint128(bound(amount, 0, available));
        if (change == 3) config.payee = address(0);
        if (change == 4) config.token = address(0);
        address sender = change == 5 ? stranger.account : config.payer;
        PlainOpening plain = new PlainOpening(channels.domainSeparator());
        plain.setDeposit(config.payer, config.token, available);
        vm.store(address(channels), keccak256(abi.encode(config.payer, config.token)), bytes32(available));

        for (uint256 round = 0; round < 2; ++round) {
            vm.recordLogs();
            vm.prank(sender);
            (bool plainDone, bytes memory plainAnswer) =
                address(plain).call(abi.encodeCall(plain.open, (config, amount)));
            vm.prank(sender);
            (bool done, bytes memory answer) = address(channels).call(abi.encodeCall(channels.open, (config, amount)));
            vm.assertTrue(plainDone == done, "outcome");
            vm.assertEq(plainAnswer, answer);
            Vm.Log[] memory logs = vm.getRecordedLogs();
            vm.assertEq(logs.length, done ? 2 : 0);
            if (done) {
                vm.assertEq(abi.encode(logs[0].topics), abi.encode(logs[1].topics));
                vm.assertEq(logs[0].data, logs[1].data);
            }
            ChannelState memory state = channels.channel(channels.channelId(config));
            (uint128 reserved, Status status) = plain.channels(channels.channelId(config));
            vm.assertEq(state.reserved, reserved);
            vm.assertEq(uint256(state.status), uint256(status));
            vm.assertEq(channels.depositOf(config.payer, config.token), plain.deposits(config.payer, config.token));
        }
    }

    function test_channelId_isThePlainDigest(ChannelConfig memory config) public view {
        vm.assertEq(channels.channelId(config), Digests.channelIdOf(channels.domainSeparator(), config));
    }

    function test_channelId_bindsChainAndContract() public {
        bytes32 id = channels.channelId(usualConfig());
        bytes32 separator = channels.domainSeparator();
        vm.chainId(4242);
        vm.assertFalse(channels.channelId(usualConfig()) == id);
        vm.assertFalse(channels.domainSeparator() == separator);
        vm.assertEq(
            channels.domainSeparator(),
            keccak256(
                abi.encode(
                    keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                    keccak256("Sparewire Channels"),
                    keccak256("1"),
                    4242,
                    channels
                )
            )
        );
    }

    function test_openBatch_opensAll() public {
        (ChannelConfig[] memory configs, uint128[] memory amounts) = _batch(5);
        uint256 before = deposits(payer.account);
        vm.prank(payer.account);
        channels.openBatch(configs, amounts);
        uint256 sum;
        for (uint256 i = 0; i < 5; ++i) {
            assertChannel(channels.channelId(configs[i]), amounts[i], 0, 0, Status.Open);
            sum += amounts[i];
        }
        vm.assertEq(deposits(payer.account), before - sum);
    }

    function test_openBatch_revertsIfLengthsDiffer() public {
        (ChannelConfig[] memory configs,) = _batch(3);
        vm.prank(payer.account);
        vm.expectRevert(abi.encodeWithSelector(IChannels.LengthsDiffer.selector, 3, 2));
        channels.openBatch(configs, new uint128[](2));
    }

    function test_openBatch_opensNoneIfOneIsRefused() public {
        (ChannelConfig[] memory configs, uint128[] memory amounts) = _batch(3);
        configs[2] = configs[0];
        vm.startPrank(payer.account);
        expectRefusal(IChannels.ChannelExists.selector, channels.channelId(configs[0]));
        channels.openBatch(configs, amounts);
    }

    function test_openBatch_revertsIfOneIsAnothersChannel() public {
        (ChannelConfig[] memory configs, uint128[] memory amounts) = _batch(2);
        configs[1].payer = stranger.account;
        vm.prank(payer.account);
        vm.expectRevert(abi.encodeWithSelector(IChannels.SenderNotPayer.selector, payer.account, stranger.account));
        channels.openBatch(configs, amounts);
    }

    function test_topUp_addsToReserve() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        claim(config, UNIT / 2);
        uint256 before = deposits(payer.account);
        vm.expectEmit(address(channels));
        emit IChannels.ToppedUp(id, payer.account, payee.account, 3, UNIT + 3);
        vm.prank(payer.account);
        channels.topUp(config, 3);
        assertChannel(id, UNIT + 3, UNIT / 2, 0, Status.Open);
        vm.assertEq(deposits(payer.account), before - 3);
        claim(config, UNIT + 3);
    }

    function test_topUp_revertsIfSenderIsNotPayer() public {
        (ChannelConfig memory config,) = opened(UNIT);
        vm.prank(stranger.account);
        vm.expectRevert(abi.encodeWithSelector(IChannels.SenderNotPayer.selector, stranger.account, payer.account));
        channels.topUp(config, 1);
    }

    function test_topUp_revertsIfAmountIsZero() public {
        (ChannelConfig memory config,) = opened(UNIT);
        vm.prank(payer.account);
        vm.expectRevert(IChannels.AmountZero.selector);
        channels.topUp(config, 0);
    }

    function test_topUp_revertsIfSumIsTooLarge() public {
        fund(payer.account, type(uint104).max);
        (ChannelConfig memory config,) = opened(type(uint104).max);
        vm.prank(payer.account);
        vm.expectRevert(abi.encodeWithSelector(IChannels.AmountTooLarge.selector, uint256(1) << 104));
        channels.topUp(config, 1);
    }

    function test_topUp_revertsIfDepositIsTooSmall() public {
        (ChannelConfig memory config,) = opened(uint128(deposits(payer.account)));
        vm.prank(payer.account);
        vm.expectRevert(abi.encodeWithSelector(IChannels.DepositTooSmall.selector, payer.account, address(token), 0, 1));
        channels.topUp(config, 1);
    }

    function test_topUp_revertsIfChannelIsUnknown() public {
        ChannelConfig memory config = usualConfig();
        vm.startPrank(payer.account);
        expectRefusal(IChannels.ChannelUnknown.selector, channels.channelId(config));
        channels.topUp(config, 1);
    }

    function test_topUp_revertsIfChannelIsClosingOrClosed() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        vm.startPrank(payer.account);
        channels.startClose(config);
        expectRefusal(IChannels.ChannelNotOpen.selector, id);
        channels.topUp(config, 1);
        vm.warp(vm.getBlockTimestamp() + config.withdrawDelay);
        channels.finishClose(config);
        expectRefusal(IChannels.ChannelNotOpen.selector, id);
        channels.topUp(config, 1);
    }

    function _batch(uint256 count) private view returns (ChannelConfig[] memory configs, uint128[] memory amounts) {
        (configs, amounts) = (new ChannelConfig[](count), new uint128[](count));
        for (uint256 i = 0; i < count; ++i) {
            configs[i] = usualConfig();
            configs[i].salt = bytes32(i);
            amounts[i] = uint128(UNIT + i);
        }
    }

    function _refused(ChannelConfig memory config, uint128 amount, bytes memory reason) private {
        vm.prank(payer.account);
        vm.expectRevert(reason);
        channels.open(config, amount);
    }
}
