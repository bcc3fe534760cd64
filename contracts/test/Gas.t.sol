// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IChannels} from "../src/interfaces/IChannels.sol";
import {ChannelConfig} from "../src/types/Channel.sol";
import {ChannelsTest, Person} from "./support/ChannelsTest.sol";
import {vm} from "./support/Vm.sol";

/// What whole transactions cost, as a sender pays: base, calldata with the EIP-7623 floor, execution from cold storage,
/// less refunds. Isolation makes each call from a test a transaction of its own, and `lastCallGas` its cost.
/// The state is steady: deposits, balances and claimable amounts are not zero before and after where they need not be.
/// forge-config: default.isolate = true
contract GasTest is ChannelsTest {
    uint256 private constant CHANNELS = 100;

    function setUp() public override {
        super.setUp();
        token.mint(payee.account, UNIT);
        token.mint(payer.account, 1000 * UNIT);
    }

    function test_isolation_countsBaseAndCalldata() public {
        // 4 bytes that are not zero and 32 that are: 21000 + 4 * 16 + 32 * 4, or by the floor 21000 + 10 * (4 * 4 + 32).
        (bool done,) = stranger.account.call(abi.encodePacked(bytes4(0xffffffff), bytes32(0)));
        vm.assertTrue(done);
        vm.assertEq(vm.lastCallGas().gasTotalUsed, 21_000 + 480);
    }

    function test_deposit() public {
        vm.prank(payer.account);
        channels.deposit(address(token), UNIT);
        _record("deposit", 1, 65_000);
    }

    function test_withdraw() public {
        vm.prank(payer.account);
        channels.withdraw(address(token), UNIT, payer.account);
        _record("withdraw", 1, 65_000);
    }

    function test_open() public {
        ChannelConfig memory config = _config(0);
        vm.prank(payer.account);
        channels.open(config, UNIT);
        _record("open", 1, 55_000);
    }

    function test_openBatchOf10() public {
        ChannelConfig[] memory configs = new ChannelConfig[](10);
        uint128[] memory amounts = new uint128[](10);
        for (uint256 i = 0; i < 10; ++i) {
            (configs[i], amounts[i]) = (_config(i), UNIT);
        }
        vm.prank(payer.account);
        channels.openBatch(configs, amounts);
        _record("openBatch of 10, each", 10, 32_000);
    }

    function test_closeAlone() public {
        ChannelConfig memory config = _config(0);
        open(config, UNIT);
        channels.claim(one(voucher(config, UNIT / 2)));
        vm.prank(payer.account);
        channels.startClose(config);
        uint256 start = _used();
        vm.warp(vm.getBlockTimestamp() + config.withdrawDelay);
        vm.prank(stranger.account);
        channels.finishClose(config);
        _record("startClose and finishClose", start + _used(), 1, 110_000);
    }

    function test_closeCooperatively() public {
        ChannelConfig memory config = _config(0);
        open(config, UNIT);
        channels.claim(one(voucher(config, UNIT / 2)));
        bytes memory agreed = closeSignature(config, UNIT * 3 / 4, payeeAuthorizer.key);
        channels.closeCooperatively(voucher(config, UNIT * 3 / 4), agreed);
        _record("closeCooperatively with a voucher", 1, 80_000);
    }

    function test_moveOf10_toANewAuthorizer() public {
        bytes[] memory calls = new bytes[](20);
        for (uint256 i = 0; i < 10; ++i) {
            ChannelConfig memory config = _config(i);
            open(config, UNIT);
            channels.claim(one(voucher(config, UNIT / 4)));
            bytes memory agreed = closeSignature(config, UNIT / 2, payeeAuthorizer.key);
            calls[i] = abi.encodeCall(IChannels.closeCooperatively, (voucher(config, UNIT / 2), agreed));
            config.payerAuthorizer = stranger.account;
            calls[10 + i] = abi.encodeCall(IChannels.open, (config, UNIT / 2));
        }
        vm.prank(payer.account);
        channels.multicall(calls);
        _record("multicall that moves 10 to a new authorizer, each", 10, 75_000);
    }

    function test_claim() public {
        ChannelConfig memory config = _config(0);
        open(config, UNIT);
        channels.claim(one(voucher(config, UNIT / 4)));
        channels.claim(one(voucher(config, UNIT / 2)));
        _record("claim of 1", 1, 60_000);
    }

    function test_claimPackedOf1() public {
        channels.claimPacked(_steady(1));
        _record("claimPacked of 1", 1, 50_000);
    }

    /// As a payee that only ever claims this way: nothing is claimable before, so no refund for clearing it.
    function test_claimPackedAndSweepOf100_fromNothingClaimable() public {
        bytes memory data = _steady(CHANNELS);
        channels.sweep(payee.account, address(token));
        channels.claimPackedAndSweep(data);
        _record("claimPackedAndSweep of 100 with nothing claimable before, each", CHANNELS, 11_500);
    }

    function test_claimPackedAndSweepOf1() public {
        channels.claimPackedAndSweep(_steady(1));
        _record("claimPackedAndSweep of 1", 1, 70_000);
    }

    function test_claimPackedAndSweepOf10() public {
        channels.claimPackedAndSweep(_steady(10));
        _record("claimPackedAndSweep of 10, each", 10, 17_000);
    }

    function test_claimPackedAndSweepOf100() public {
        uint256 before = token.balanceOf(payee.account);
        channels.claimPackedAndSweep(_steady(CHANNELS));
        _record("claimPackedAndSweep of 100, each", CHANNELS, 11_500);
        // Each channel was credited up to a half, of which a quarter was swept before.
        vm.assertEq(token.balanceOf(payee.account) - before, CHANNELS * UNIT / 2);
    }

    /// `count` channels of as many payers, all claimed once before, and a packed claim of what they promise now.
    function _steady(uint256 count) private returns (bytes memory data) {
        bytes memory first = packedHeader(usualConfig());
        data = first;
        for (uint256 i = 0; i < count; ++i) {
            Person memory consumer = person(string.concat("consumer ", vm.toString(i)));
            Person memory authorizer = person(string.concat("authorizer ", vm.toString(i)));
            fund(consumer.account, 2 * UNIT);
            ChannelConfig memory config = _config(i);
            (config.payer, config.payerAuthorizer) = (consumer.account, authorizer.account);
            open(config, UNIT);
            first = bytes.concat(first, packedEntry(config, UNIT / 4, authorizer.key));
            data = bytes.concat(data, packedEntry(config, UNIT / 2, authorizer.key));
        }
        channels.claimPacked(first);
    }

    /// Salts are eight random bytes, as clients pick them.
    function _config(uint256 i) private view returns (ChannelConfig memory config) {
        config = usualConfig();
        config.salt = bytes32(uint256(uint64(uint256(keccak256(abi.encode(i))))));
    }

    function _used() private view returns (uint256) {
        return vm.lastCallGas().gasTotalUsed;
    }

    function _record(string memory what, uint256 count, uint256 target) private {
        _record(what, _used(), count, target);
    }

    function _record(string memory what, uint256 used, uint256 count, uint256 target) private {
        uint256 each = (used + count - 1) / count;
        vm.snapshotValue("gas", what, each);
        vm.assertLe(each, target, what);
    }
}
