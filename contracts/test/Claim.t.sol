// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IChannels} from "../src/interfaces/IChannels.sol";
import {ChannelConfig, Claim, Status} from "../src/types/Channel.sol";
import {ChannelsTest} from "./support/ChannelsTest.sol";
import {FeeToken} from "./support/Tokens.sol";
import {Wallet} from "./support/Wallet.sol";
import {bound, vm} from "./support/Vm.sol";

contract ClaimTest is ChannelsTest {
    uint256 private constant ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    function test_claim_creditsWhatIsNew(uint128 first, uint128 second) public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        first = uint128(bound(first, 1, UNIT - 1));
        second = uint128(bound(second, first + 1, UNIT));
        claim(config, first);
        vm.assertEq(claimable(payee.account), first);
        Claim[] memory claims = one(voucher(config, second));
        vm.expectEmit(address(channels));
        emit IChannels.Claimed(id, payee.account, address(token), second);
        channels.claim(claims);
        vm.assertEq(claimable(payee.account), second);
        assertChannel(id, UNIT, second, 0, Status.Open);
    }

    function test_claim_takesCompactSignature() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        Claim memory entry = voucher(config, UNIT);
        entry.signature = compactSignature(payerAuthorizer.key, channels.voucherDigest(id, UNIT));
        channels.claim(one(entry));
        vm.assertEq(claimable(payee.account), UNIT);
    }

    function test_claim_takesNone() public {
        channels.claim(new Claim[](0));
    }

    function test_claim_skipsIfNotAboveClaimed(uint128 amount) public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        claim(config, UNIT / 2);
        amount = uint128(bound(amount, 0, UNIT / 2));
        // Not even its signature is looked at.
        channels.claim(one(Claim(config, amount, "")));
        assertChannel(id, UNIT, UNIT / 2, 0, Status.Open);
        vm.assertEq(claimable(payee.account), UNIT / 2);
    }

    function test_claim_skipsIfClosed() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        Claim[] memory claims = one(voucher(config, UNIT));
        vm.prank(payer.account);
        channels.startClose(config);
        vm.warp(vm.getBlockTimestamp() + config.withdrawDelay);
        channels.finishClose(config);
        channels.claim(claims);
        vm.assertEq(claimable(payee.account), 0);
        vm.assertEq(uint256(channels.channel(id).status), uint256(Status.Closed));
    }

    function test_claim_countsWhileClosingEvenAfterItsTime() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        vm.prank(payer.account);
        channels.startClose(config);
        uint256 closeAt = vm.getBlockTimestamp() + config.withdrawDelay;
        claim(config, 1);
        vm.warp(closeAt + 1);
        claim(config, 2);
        assertChannel(id, UNIT, 2, closeAt, Status.Closing);
    }

    function test_claim_revertsIfChannelIsUnknown() public {
        Claim[] memory claims = one(voucher(usualConfig(), 0));
        expectRefusal(IChannels.ChannelUnknown.selector, channels.channelId(usualConfig()));
        channels.claim(claims);
    }

    function test_claim_revertsIfAboveReserved() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        Claim[] memory claims = one(voucher(config, UNIT + 1));
        vm.expectRevert(abi.encodeWithSelector(IChannels.AmountAboveReserved.selector, id, UNIT + 1, UNIT));
        channels.claim(claims);
    }

    function test_claim_revertsIfSignedByAnother() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        // Even the payer may not, once it has named an authorizer.
        uint256[3] memory keys = [payer.key, payee.key, stranger.key];
        for (uint256 i = 0; i < keys.length; ++i) {
            _invalid(voucher(config, UNIT, keys[i]), id);
        }
    }

    function test_claim_revertsIfVoucherIsOfAnotherChannelAmountOrDomain() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        ChannelConfig memory other = usualConfig();
        other.salt = bytes32(uint256(2));
        _invalid(Claim(config, UNIT, voucher(other, UNIT).signature), id);
        _invalid(Claim(config, UNIT, voucher(config, UNIT - 1).signature), id);
        _invalid(Claim(config, UNIT, closeSignature(config, UNIT, payerAuthorizer.key)), id);
    }

    function test_claim_revertsIfSignatureHasAnotherForm() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        bytes32 digest = channels.voucherDigest(id, UNIT);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(payerAuthorizer.key, digest);
        bytes32 high = bytes32(ORDER - uint256(s));
        _invalid(Claim(config, UNIT, abi.encodePacked(r, high, v == 27 ? uint8(28) : uint8(27))), id);
        _invalid(Claim(config, UNIT, abi.encodePacked(r, s, v - 27)), id);
        _invalid(Claim(config, UNIT, abi.encodePacked(r, s, v, uint8(0))), id);
        _invalid(Claim(config, UNIT, abi.encodePacked(r, bytes31(s))), id);
        _invalid(Claim(config, UNIT, new bytes(65)), id);
        _invalid(Claim(config, UNIT, new bytes(64)), id);
        _invalid(Claim(config, UNIT, ""), id);
    }

    function test_claim_revertsWholeBatchIfOneIsWrong() public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        ChannelConfig memory other = usualConfig();
        other.salt = bytes32(uint256(2));
        bytes32 otherId = open(other, UNIT);
        Claim[] memory claims = new Claim[](2);
        (claims[0], claims[1]) = (voucher(config, 1), voucher(other, 1, stranger.key));
        expectRefusal(IChannels.VoucherSignatureInvalid.selector, otherId);
        channels.claim(claims);
        vm.assertEq(channels.channel(id).claimed, 0);
    }

    function test_claim_takesSeveralOfOneChannel() public {
        (ChannelConfig memory config,) = opened(UNIT);
        Claim[] memory claims = new Claim[](3);
        (claims[0], claims[1], claims[2]) = (voucher(config, 5), voucher(config, 3), voucher(config, 9));
        channels.claim(claims);
        vm.assertEq(claimable(payee.account), 9);
    }

    function test_claim_givesTheSameWhoeverSends(address sender, uint128 amount) public {
        (ChannelConfig memory config, bytes32 id) = opened(UNIT);
        Claim[] memory claims = one(voucher(config, uint128(amount = uint128(bound(amount, 1, UNIT)))));
        bytes memory data = packed(config, amount);
        uint256 state = vm.snapshotState();
        vm.prank(sender);
        channels.claim(claims);
        vm.assertEq(claimable(payee.account), amount);
        vm.assertEq(channels.channel(id).claimed, amount);
        vm.revertToState(state);
        vm.prank(sender);
        channels.claimPacked(data);
        vm.assertEq(claimable(payee.account), amount);
        vm.assertEq(channels.channel(id).claimed, amount);
    }

    function test_claim_asksPayerItselfIfItNamedNoAuthorizer(bool compact) public {
        ChannelConfig memory config = usualConfig();
        config.payerAuthorizer = address(0);
        bytes32 id = open(config, UNIT);
        _invalid(voucher(config, UNIT, payerAuthorizer.key), id);
        bytes32 digest = channels.voucherDigest(id, UNIT);
        channels.claim(
            one(Claim(config, UNIT, compact ? compactSignature(payer.key, digest) : signature(payer.key, digest)))
        );
        vm.assertEq(claimable(payee.account), UNIT);
    }

    function test_claim_asksWalletOfPayer() public {
        Wallet wallet = new Wallet(payer.account);
        fund(address(wallet), UNIT);
        ChannelConfig memory config = usualConfig();
        (config.payer, config.payerAuthorizer) = (address(wallet), address(0));
        bytes32 id = open(config, UNIT);
        _invalid(voucher(config, UNIT, stranger.key), id);
        channels.claim(one(voucher(config, UNIT, payer.key)));
        vm.assertEq(claimable(payee.account), UNIT);
    }

    function test_claim_ofKeyHolderStandsThoughItBecomesWallet() public {
        ChannelConfig memory config = usualConfig();
        config.payerAuthorizer = address(0);
        open(config, UNIT);
        Claim[] memory claims = one(voucher(config, UNIT, payer.key));
        // The payer delegates to code that vouches for nothing (EIP-7702).
        vm.etch(payer.account, abi.encodePacked(hex"ef0100", new Wallet(stranger.account)));
        channels.claim(claims);
        vm.assertEq(claimable(payee.account), UNIT);
    }

    function test_claim_revertsIfConfigHasDirtyBits() public {
        (ChannelConfig memory config,) = opened(UNIT);
        bytes memory data = abi.encodeCall(IChannels.claim, (one(voucher(config, UNIT))));
        // Selector, then where the claims are, how many, where the first is: its config begins at 0x20 + 4 + 0x60.
        assembly ("memory-safe") {
            let place := add(data, 0x84)
            mstore(place, or(mload(place), shl(200, 1)))
        }
        (bool done, bytes memory answer) = address(channels).call(data);
        vm.assertFalse(done);
        vm.assertEq(answer, abi.encodeWithSelector(IChannels.ConfigMalformed.selector));
    }

    function test_sweep_paysThePayeeWhoeverSends(address sender) public {
        (ChannelConfig memory config,) = opened(UNIT);
        claim(config, UNIT);
        vm.expectEmit(address(channels));
        emit IChannels.Swept(payee.account, address(token), UNIT);
        vm.prank(sender);
        vm.assertEq(channels.sweep(payee.account, address(token)), UNIT);
        vm.assertEq(token.balanceOf(payee.account), UNIT);
        vm.assertEq(claimable(payee.account), 0);
    }

    function test_sweep_ofNothingDoesNothing() public {
        vm.recordLogs();
        vm.assertEq(channels.sweep(payee.account, address(token)), 0);
        vm.assertEq(vm.getRecordedLogs().length, 0);
    }

    function test_sweep_ofFeeTokenLeavesContractSolvent() public {
        FeeToken dear = new FeeToken();
        dear.mint(payer.account, UNIT);
        vm.startPrank(payer.account);
        dear.approve(address(channels), UNIT);
        channels.deposit(address(dear), UNIT);
        vm.stopPrank();
        uint128 held = uint128(channels.depositOf(payer.account, address(dear)));
        ChannelConfig memory config = usualConfig();
        config.token = address(dear);
        open(config, held);
        claim(config, held / 2);
        channels.sweep(payee.account, address(dear));
        vm.assertEq(dear.balanceOf(payee.account), held / 2 - dear.fee(held / 2));
        vm.assertEq(dear.balanceOf(address(channels)), held - held / 2);
    }

    function _invalid(Claim memory entry, bytes32 id) private {
        expectRefusal(IChannels.VoucherSignatureInvalid.selector, id);
        channels.claim(one(entry));
    }
}
