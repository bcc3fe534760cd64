// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IChannels} from "../src/interfaces/IChannels.sol";
import {ChannelConfig, Claim} from "../src/types/Channel.sol";
import {ChannelsTest} from "./support/ChannelsTest.sol";
import {ReentrantToken} from "./support/Tokens.sol";
import {vm} from "./support/Vm.sol";

/// A token that calls back in the middle of each of its transfers, as payer, payee and stranger at once.
contract ReentrancyTest is ChannelsTest {
    ReentrantToken private wicked;
    ChannelConfig private config;

    function setUp() public override {
        super.setUp();
        wicked = new ReentrantToken();
        wicked.mint(payer.account, 10 * UNIT);
        wicked.mint(address(wicked), 10 * UNIT);
        wicked.approveFor(address(channels), type(uint256).max);
        vm.startPrank(payer.account);
        wicked.approve(address(channels), type(uint256).max);
        channels.deposit(address(wicked), 4 * UNIT);
        channels.depositFor(address(wicked), address(wicked), 4 * UNIT);
        vm.stopPrank();
        config = usualConfig();
        config.token = address(wicked);
        open(config, UNIT);
        claim(config, UNIT / 2);
    }

    function test_everyFunction_isShutDuringDeposit() public {
        _shutDuring(payer.account, abi.encodeCall(IChannels.deposit, (address(wicked), UNIT)));
    }

    function test_everyFunction_isShutDuringWithdraw() public {
        _shutDuring(payer.account, abi.encodeCall(IChannels.withdraw, (address(wicked), UNIT, payer.account)));
    }

    function test_everyFunction_isShutDuringSweep() public {
        _shutDuring(stranger.account, abi.encodeCall(IChannels.sweep, (payee.account, address(wicked))));
    }

    function test_everyFunction_isShutDuringClaimPackedAndSweep() public {
        _shutDuring(stranger.account, abi.encodeCall(IChannels.claimPackedAndSweep, (packed(config, UNIT))));
    }

    function test_everyFunction_isShutDuringMulticall() public {
        bytes[] memory calls = new bytes[](1);
        calls[0] = abi.encodeCall(IChannels.withdraw, (address(wicked), UNIT, payer.account));
        _shutDuring(payer.account, abi.encodeCall(IChannels.multicall, (calls)));
    }

    function test_open_duringTokenCallSpendsOnlyWhatIsThere() public {
        ChannelConfig memory own = config;
        (own.payer, own.payerAuthorizer) = (address(wicked), stranger.account);
        uint256 available = channels.depositOf(address(wicked), address(wicked));
        wicked.arm(address(channels), abi.encodeCall(IChannels.open, (own, uint128(available))));
        vm.prank(payer.account);
        channels.depositFor(address(wicked), address(wicked), UNIT);
        vm.assertTrue(wicked.entered());
        // The deposit under way is credited on top, once.
        vm.assertEq(channels.depositOf(address(wicked), address(wicked)), UNIT);
        vm.assertEq(channels.channel(channels.channelId(own)).reserved, available);
        wicked.arm(address(channels), abi.encodeCall(IChannels.open, (own, 1)));
        vm.prank(payer.account);
        channels.deposit(address(wicked), 1);
        vm.assertFalse(wicked.entered());
    }

    function _shutDuring(address sender, bytes memory outer) private {
        Claim[] memory claims = one(voucher(config, UNIT));
        bytes memory data = packed(config, UNIT);
        bytes[] memory inner = new bytes[](15);
        inner[0] = abi.encodeCall(IChannels.deposit, (address(wicked), 1));
        inner[1] = abi.encodeCall(IChannels.depositFor, (address(wicked), address(wicked), 1));
        inner[2] = abi.encodeCall(IChannels.depositWithPermit, (address(wicked), 1, 0, 0, 0, 0));
        inner[3] = abi.encodeCall(
            IChannels.depositWithAuthorization, (payer.account, address(wicked), 1, 0, 0, 0, new bytes(65))
        );
        inner[4] = abi.encodeCall(IChannels.withdraw, (address(wicked), 1, stranger.account));
        inner[5] = abi.encodeCall(IChannels.topUp, (config, 1));
        inner[6] = abi.encodeCall(IChannels.claim, (claims));
        inner[7] = abi.encodeCall(IChannels.claimPacked, (data));
        inner[8] = abi.encodeCall(IChannels.claimPackedAndSweep, (data));
        inner[9] = abi.encodeCall(IChannels.sweep, (payee.account, address(wicked)));
        inner[10] = abi.encodeCall(IChannels.closeCooperatively, (claims[0], ""));
        inner[11] = abi.encodeCall(IChannels.startClose, (config));
        inner[12] = abi.encodeCall(IChannels.finishClose, (config));
        inner[13] = abi.encodeCall(IChannels.sweep, (stranger.account, address(token)));
        bytes[] memory calls = new bytes[](1);
        calls[0] = inner[13];
        inner[14] = abi.encodeCall(IChannels.multicall, (calls));
        for (uint256 i = 0; i < inner.length; ++i) {
            uint256 state = vm.snapshotState();
            wicked.arm(address(channels), inner[i]);
            vm.prank(sender);
            (bool done,) = address(channels).call(outer);
            vm.assertTrue(done);
            vm.assertEq(wicked.target(), address(0));
            vm.assertFalse(wicked.entered());
            vm.assertEq(
                wicked.answer(), abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector)
            );
            vm.revertToState(state);
        }
    }
}
