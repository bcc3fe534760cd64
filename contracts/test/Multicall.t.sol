// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IChannels} from "../src/interfaces/IChannels.sol";
import {ChannelConfig, Claim, Status} from "../src/types/Channel.sol";
import {ChannelsTest} from "./support/ChannelsTest.sol";
import {vm} from "./support/Vm.sol";

/// Several calls at once, above all the move of channels to a new authorizer.
contract MulticallTest is ChannelsTest {
    uint256 private constant MOVED = 5;

    function test_multicall_movesChannelsToANewAuthorizer() public {
        (bytes[] memory calls, bytes32[] memory old, bytes32[] memory next) = _move();
        uint256 before = deposits(payer.account);
        vm.prank(payer.account);
        channels.multicall(calls);
        for (uint256 i = 0; i < MOVED; ++i) {
            assertChannel(old[i], 4 * UNIT, 3 * UNIT, 0, Status.Closed);
            assertChannel(next[i], UNIT, 0, 0, Status.Open);
        }
        // All that the new channels hold came back from the old.
        vm.assertEq(deposits(payer.account), before);
        vm.assertEq(claimable(payee.account), MOVED * 3 * UNIT);
        // The new key signs now, the old one does not.
        ChannelConfig memory config = _config(0, stranger.account);
        channels.claim(one(voucher(config, UNIT, stranger.key)));
        config = _config(1, stranger.account);
        Claim[] memory stale = one(voucher(config, UNIT, payerAuthorizer.key));
        expectRefusal(IChannels.VoucherSignatureInvalid.selector, next[1]);
        channels.claim(stale);
    }

    function test_multicall_doesAllOrNothing() public {
        (bytes[] memory calls, bytes32[] memory old,) = _move();
        // The last channel asks for more than came back.
        uint256 available = deposits(payer.account) + UNIT;
        calls[calls.length - 1] =
            abi.encodeCall(IChannels.open, (_config(MOVED - 1, stranger.account), uint128(available + 1)));
        vm.prank(payer.account);
        vm.expectRevert(
            abi.encodeWithSelector(
                IChannels.DepositTooSmall.selector, payer.account, address(token), available, available + 1
            )
        );
        channels.multicall(calls);
        for (uint256 i = 0; i < MOVED; ++i) {
            assertChannel(old[i], 4 * UNIT, 0, 0, Status.Open);
        }
    }

    function test_multicall_givesNobodyMoreThanTheCallsAlone() public {
        (bytes[] memory calls,,) = _move();
        // A stranger may bring the closes, but opens nothing for the payer.
        vm.prank(stranger.account);
        vm.expectRevert(abi.encodeWithSelector(IChannels.SenderNotPayer.selector, stranger.account, payer.account));
        channels.multicall(calls);
        bytes[] memory theft = new bytes[](1);
        theft[0] = abi.encodeCall(IChannels.withdraw, (address(token), UNIT, stranger.account));
        vm.prank(stranger.account);
        vm.expectRevert(
            abi.encodeWithSelector(IChannels.DepositTooSmall.selector, stranger.account, address(token), 0, UNIT)
        );
        channels.multicall(theft);
    }

    function test_multicall_returnsWhatTheCallsReturn() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        claim(config, UNIT);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(IChannels.channelId, (config));
        calls[1] = abi.encodeCall(IChannels.sweep, (payee.account, address(token)));
        bytes[] memory results = channels.multicall(calls);
        vm.assertEq(abi.decode(results[0], (bytes32)), id);
        vm.assertEq(abi.decode(results[1], (uint256)), UNIT);
        vm.assertEq(token.balanceOf(payee.account), UNIT);
    }

    /// Calls that shut the contract while they run open it again for the next.
    function test_multicall_ofGuardedCallsOneAfterAnother() public {
        bytes[] memory calls = new bytes[](4);
        token.mint(payer.account, 2 * UNIT);
        calls[0] = abi.encodeCall(IChannels.deposit, (address(token), UNIT));
        calls[1] = abi.encodeCall(IChannels.depositFor, (payee.account, address(token), UNIT));
        calls[2] = abi.encodeCall(IChannels.withdraw, (address(token), UNIT, payer.account));
        bytes[] memory inner = new bytes[](1);
        inner[0] = abi.encodeCall(IChannels.open, (usualConfig(), UNIT));
        calls[3] = abi.encodeCall(IChannels.multicall, (inner));
        uint256 before = deposits(payer.account);
        vm.prank(payer.account);
        channels.multicall(calls);
        vm.assertEq(deposits(payer.account), before - UNIT);
        vm.assertEq(deposits(payee.account), UNIT);
        vm.assertEq(token.balanceOf(payer.account), UNIT);
    }

    /// `multicall` of one call does as that call.
    function testFuzz_multicall_ofOneIsThatCall(uint128 amount, uint40 delay, bytes32 salt, address sender) public {
        vm.assume(sender != address(0));
        ChannelConfig memory config = usualConfig();
        (config.withdrawDelay, config.salt) = (delay, salt);
        bytes memory call = abi.encodeCall(IChannels.open, (config, amount));
        address from = uint160(sender) % 2 == 0 ? payer.account : sender;
        uint256 state = vm.snapshotState();
        vm.prank(from);
        (bool alone, bytes memory reason) = address(channels).call(call);
        uint256 left = deposits(payer.account);
        vm.revertToState(state);
        bytes[] memory calls = new bytes[](1);
        calls[0] = call;
        vm.prank(from);
        (bool together, bytes memory answer) = address(channels).call(abi.encodeCall(IChannels.multicall, (calls)));
        vm.assertTrue(alone == together);
        if (!alone) vm.assertEq(answer, reason);
        vm.assertEq(deposits(payer.account), left);
    }

    /// Five channels with four units each, of which the last voucher promises three; and the calls that close them and
    /// open others, which hold what is left, for a new authorizer.
    function _move() private returns (bytes[] memory calls, bytes32[] memory old, bytes32[] memory next) {
        calls = new bytes[](2 * MOVED);
        (old, next) = (new bytes32[](MOVED), new bytes32[](MOVED));
        for (uint256 i = 0; i < MOVED; ++i) {
            ChannelConfig memory config = _config(i, payerAuthorizer.account);
            old[i] = open(config, 4 * UNIT);
            bytes memory agreed = closeSignature(config, 3 * UNIT, payeeAuthorizer.key);
            calls[i] = abi.encodeCall(IChannels.closeCooperatively, (voucher(config, 3 * UNIT), agreed));
            config = _config(i, stranger.account);
            next[i] = channels.channelId(config);
            calls[MOVED + i] = abi.encodeCall(IChannels.open, (config, UNIT));
        }
    }

    function _config(uint256 salt, address authorizer) private view returns (ChannelConfig memory config) {
        config = usualConfig();
        (config.salt, config.payerAuthorizer) = (bytes32(salt), authorizer);
    }
}
