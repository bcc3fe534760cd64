// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Keys} from "../src/Keys.sol";
import {IKeys} from "../src/interfaces/IKeys.sol";
import {Digests} from "../src/libraries/Digests.sol";
import {Cap, Speaker, Standing} from "../src/types/Standing.sol";
import {ChannelsTest} from "./support/ChannelsTest.sol";
import {Wallet} from "./support/Wallet.sol";
import {vm} from "./support/Vm.sol";

contract KeysTest is ChannelsTest {
    Keys private keys;

    bytes32 private constant DEVICE = keccak256("device");
    bytes32 private constant OTHER_DEVICE = keccak256("other device");
    uint64 private constant EXPIRY = 1_800_000_000 + 30 days;

    function setUp() public override {
        super.setUp();
        keys = new Keys(channels);
    }

    // Registering

    function test_register_countsThroughItsExpiryAndNotAfter() public {
        _standing(Standing.Unknown);
        vm.expectEmit(address(keys));
        emit IKeys.Registered(payer.account, DEVICE, payerAuthorizer.account, EXPIRY);
        vm.prank(payer.account);
        keys.register(_delegation());
        _standing(Standing.Registered);
        vm.warp(EXPIRY);
        _standing(Standing.Registered);
        vm.warp(EXPIRY + 1);
        _standing(Standing.Expired);
    }

    function test_registerFor_takesTheDelegationThatPeersAreShown() public {
        bytes32 digest = Digests.delegation(channels.domainSeparator(), _delegation());
        vm.assertEq(keys.delegationDigest(_delegation()), digest);
        bytes memory signed = signature(payer.key, digest);
        vm.prank(stranger.account);
        keys.registerFor(_delegation(), signed);
        _standing(Standing.Registered);
    }

    function test_registerFor_takesAContractWalletsWord() public {
        Wallet wallet = new Wallet(payer.account);
        Digests.Delegation memory delegation = _delegation();
        delegation.wallet = address(wallet);
        bytes memory signed = signature(payer.key, keys.delegationDigest(delegation));
        keys.registerFor(delegation, signed);
        vm.assertTrue(keys.standing(address(wallet), DEVICE, payerAuthorizer.account) == Standing.Registered);
        // What it says later changes nothing.
        wallet.setOwner(stranger.account);
        vm.assertTrue(keys.standing(address(wallet), DEVICE, payerAuthorizer.account) == Standing.Registered);
        vm.expectRevert(abi.encodeWithSelector(IKeys.WalletSignatureInvalid.selector, address(wallet)));
        keys.registerFor(delegation, signed);
    }

    function test_register_neverShortens() public {
        vm.startPrank(payer.account);
        keys.register(_delegation());
        Digests.Delegation memory shorter = _delegation();
        shorter.expiry = EXPIRY - 1;
        keys.register(shorter);
        vm.assertEq(keys.expiryOf(payer.account, DEVICE, payerAuthorizer.account), EXPIRY);
        shorter.expiry = EXPIRY + 1;
        keys.register(shorter);
        vm.assertEq(keys.expiryOf(payer.account, DEVICE, payerAuthorizer.account), EXPIRY + 1);
        vm.stopPrank();
    }

    function test_register_revertsIfExpired() public {
        vm.warp(EXPIRY + 1);
        vm.prank(payer.account);
        vm.expectRevert(abi.encodeWithSelector(IKeys.DelegationExpired.selector, EXPIRY));
        keys.register(_delegation());
    }

    function test_register_revertsIfAKeyIsMissing() public {
        Digests.Delegation memory delegation = _delegation();
        delegation.device = 0;
        vm.prank(payer.account);
        vm.expectRevert(IKeys.KeyMissing.selector);
        keys.register(delegation);
        delegation = _delegation();
        delegation.authorizer = address(0);
        vm.prank(payer.account);
        vm.expectRevert(IKeys.KeyMissing.selector);
        keys.register(delegation);
    }

    function test_register_revertsForAnother() public {
        vm.prank(stranger.account);
        vm.expectRevert(abi.encodeWithSelector(IKeys.SenderNotWallet.selector, stranger.account, payer.account));
        keys.register(_delegation());
        vm.prank(stranger.account);
        vm.expectRevert(abi.encodeWithSelector(IKeys.SenderNotWallet.selector, stranger.account, payer.account));
        keys.rotate(DEVICE, address(0), _delegation());
    }

    function test_registerFor_revertsIfSignedByAnotherOrElsewhere() public {
        bytes32 digest = keys.delegationDigest(_delegation());
        bytes memory wrong = signature(payerAuthorizer.key, digest);
        vm.expectRevert(abi.encodeWithSelector(IKeys.WalletSignatureInvalid.selector, payer.account));
        keys.registerFor(_delegation(), wrong);
        bytes memory elsewhere = signature(payer.key, Digests.delegation(keys.domainSeparator(), _delegation()));
        vm.expectRevert(abi.encodeWithSelector(IKeys.WalletSignatureInvalid.selector, payer.account));
        keys.registerFor(_delegation(), elsewhere);
    }

    function test_nobodyActsForTheZeroAddress() public {
        Digests.Delegation memory delegation = _delegation();
        delegation.wallet = address(0);
        vm.expectRevert(IKeys.WalletInvalid.selector);
        keys.registerFor(delegation, new bytes(65));
        vm.expectRevert(IKeys.WalletInvalid.selector);
        keys.revokeFor(address(0), DEVICE, address(0), EXPIRY, new bytes(65));
        vm.expectRevert(IKeys.WalletInvalid.selector);
        keys.setCapFor(address(0), payerAuthorizer.account, address(token), 1, EXPIRY, new bytes(65));
    }

    // Revoking

    function test_revoke_ofKeysThatWereNeverRegistered() public {
        vm.expectEmit(address(keys));
        emit IKeys.DeviceRevoked(payer.account, DEVICE);
        vm.prank(payer.account);
        keys.revoke(DEVICE, address(0));
        _standing(Standing.Revoked);
        vm.assertEq(keys.deviceRevokedAt(payer.account, DEVICE), vm.getBlockTimestamp());
        // The authorizer goes on with another device, and the device for another wallet.
        vm.assertTrue(keys.standing(payer.account, OTHER_DEVICE, payerAuthorizer.account) == Standing.Unknown);
        vm.assertTrue(keys.standing(payee.account, DEVICE, payerAuthorizer.account) == Standing.Unknown);
    }

    function test_revoke_ofAnAuthorizerEndsItWithEveryDevice() public {
        vm.startPrank(payer.account);
        keys.register(_delegation());
        keys.revoke(0, payerAuthorizer.account);
        vm.stopPrank();
        _standing(Standing.Revoked);
        vm.assertTrue(keys.standing(payer.account, OTHER_DEVICE, payerAuthorizer.account) == Standing.Revoked);
        vm.assertTrue(keys.standing(payer.account, DEVICE, stranger.account) == Standing.Unknown);
    }

    function test_revoke_revertsIfNothingIsNamed() public {
        vm.prank(payer.account);
        vm.expectRevert(IKeys.KeyMissing.selector);
        keys.revoke(0, address(0));
    }

    function test_registrationReplayedAfterRevocation_doesNotResurrect() public {
        bytes memory signed = signature(payer.key, keys.delegationDigest(_delegation()));
        keys.registerFor(_delegation(), signed);
        uint256 state = vm.snapshotState();
        vm.prank(payer.account);
        keys.revoke(DEVICE, address(0));
        vm.expectRevert(abi.encodeWithSelector(IKeys.DeviceIsRevoked.selector, payer.account, DEVICE));
        keys.registerFor(_delegation(), signed);
        _standing(Standing.Revoked);
        vm.revertToState(state);
        vm.prank(payer.account);
        keys.revoke(0, payerAuthorizer.account);
        vm.expectRevert(
            abi.encodeWithSelector(IKeys.AuthorizerIsRevoked.selector, payer.account, payerAuthorizer.account)
        );
        keys.registerFor(_delegation(), signed);
        _standing(Standing.Revoked);
    }

    function test_revokeFor_relayedTwiceChangesNothingMore() public {
        bytes memory signed = _revocation(DEVICE, payerAuthorizer.account, EXPIRY);
        vm.prank(stranger.account);
        keys.revokeFor(payer.account, DEVICE, payerAuthorizer.account, EXPIRY, signed);
        uint64 since = keys.authorizerRevokedAt(payer.account, payerAuthorizer.account);
        vm.warp(vm.getBlockTimestamp() + 1 days);
        vm.recordLogs();
        keys.revokeFor(payer.account, DEVICE, payerAuthorizer.account, EXPIRY, signed);
        vm.assertEq(vm.getRecordedLogs().length, 0);
        vm.assertEq(keys.authorizerRevokedAt(payer.account, payerAuthorizer.account), since);
        vm.assertEq(keys.deviceRevokedAt(payer.account, DEVICE), since);
    }

    function test_revokeFor_countsUntilItsDeadline() public {
        bytes memory signed = _revocation(DEVICE, address(0), EXPIRY);
        vm.warp(EXPIRY + 1);
        vm.expectRevert(abi.encodeWithSelector(IKeys.DeadlinePassed.selector, EXPIRY));
        keys.revokeFor(payer.account, DEVICE, address(0), EXPIRY, signed);
        vm.warp(EXPIRY);
        keys.revokeFor(payer.account, DEVICE, address(0), EXPIRY, signed);
        _standing(Standing.Revoked);
    }

    function test_revokeFor_revertsIfAnythingDiffersFromWhatWasSigned() public {
        bytes memory signed = _revocation(DEVICE, address(0), EXPIRY);
        vm.expectRevert(abi.encodeWithSelector(IKeys.WalletSignatureInvalid.selector, payer.account));
        keys.revokeFor(payer.account, OTHER_DEVICE, address(0), EXPIRY, signed);
        vm.expectRevert(abi.encodeWithSelector(IKeys.WalletSignatureInvalid.selector, payer.account));
        keys.revokeFor(payer.account, DEVICE, payerAuthorizer.account, EXPIRY, signed);
        vm.expectRevert(abi.encodeWithSelector(IKeys.WalletSignatureInvalid.selector, payer.account));
        keys.revokeFor(payer.account, DEVICE, address(0), EXPIRY + 1, signed);
        vm.expectRevert(abi.encodeWithSelector(IKeys.WalletSignatureInvalid.selector, payee.account));
        keys.revokeFor(payee.account, DEVICE, address(0), EXPIRY, signed);
        Keys other = new Keys(channels);
        vm.expectRevert(abi.encodeWithSelector(IKeys.WalletSignatureInvalid.selector, payer.account));
        other.revokeFor(payer.account, DEVICE, address(0), EXPIRY, signed);
        vm.chainId(777);
        vm.expectRevert(abi.encodeWithSelector(IKeys.WalletSignatureInvalid.selector, payer.account));
        keys.revokeFor(payer.account, DEVICE, address(0), EXPIRY, signed);
    }

    // Rotating

    function test_rotate_endsTheOldAndBeginsTheNew() public {
        vm.startPrank(payer.account);
        keys.register(_delegation());
        Digests.Delegation memory next = _delegation();
        next.authorizer = stranger.account;
        keys.rotate(0, payerAuthorizer.account, next);
        vm.stopPrank();
        _standing(Standing.Revoked);
        vm.assertTrue(keys.standing(payer.account, DEVICE, stranger.account) == Standing.Registered);
    }

    function test_rotate_revertsIfTheNewKeyIsTheOld() public {
        vm.prank(payer.account);
        vm.expectRevert(abi.encodeWithSelector(IKeys.DeviceIsRevoked.selector, payer.account, DEVICE));
        keys.rotate(DEVICE, address(0), _delegation());
        _standing(Standing.Unknown);
    }

    function test_rotateFor_goesThroughThoughBothHalvesWereSentAhead() public {
        Digests.Delegation memory next = _delegation();
        (next.device, next.authorizer) = (OTHER_DEVICE, stranger.account);
        bytes memory revocation = _revocation(DEVICE, payerAuthorizer.account, EXPIRY);
        bytes memory delegation = signature(payer.key, keys.delegationDigest(next));
        uint256 state = vm.snapshotState();
        for (uint256 ahead = 0; ahead < 4; ++ahead) {
            if (ahead & 1 != 0) {
                keys.revokeFor(payer.account, DEVICE, payerAuthorizer.account, EXPIRY, revocation);
            }
            if (ahead & 2 != 0) keys.registerFor(next, delegation);
            vm.prank(stranger.account);
            keys.rotateFor(DEVICE, payerAuthorizer.account, EXPIRY, revocation, next, delegation);
            _standing(Standing.Revoked);
            vm.assertTrue(keys.standing(payer.account, OTHER_DEVICE, stranger.account) == Standing.Registered);
            vm.revertToState(state);
        }
        bytes memory wrong = signature(stranger.key, keys.delegationDigest(next));
        vm.expectRevert(abi.encodeWithSelector(IKeys.WalletSignatureInvalid.selector, payer.account));
        keys.rotateFor(DEVICE, payerAuthorizer.account, EXPIRY, revocation, next, wrong);
        _standing(Standing.Unknown);
    }

    // Caps

    function test_setCap_isWhatTheWalletSaidLast() public {
        Cap memory cap = keys.capOf(payer.account, payerAuthorizer.account, address(token));
        vm.assertFalse(cap.declared);
        vm.startPrank(payer.account);
        keys.setCap(payerAuthorizer.account, address(token), 5);
        keys.setCap(payerAuthorizer.account, address(token), 0);
        vm.stopPrank();
        cap = keys.capOf(payer.account, payerAuthorizer.account, address(token));
        vm.assertTrue(cap.declared);
        vm.assertEq(cap.amount, 0);
    }

    function test_setCapFor_countsOnceAndInTurn() public {
        bytes memory first = _capChange(5, 0);
        bytes memory second = _capChange(9, 1);
        vm.expectRevert(abi.encodeWithSelector(IKeys.WalletSignatureInvalid.selector, payer.account));
        keys.setCapFor(payer.account, payerAuthorizer.account, address(token), 9, EXPIRY, second);
        keys.setCapFor(payer.account, payerAuthorizer.account, address(token), 5, EXPIRY, first);
        keys.setCapFor(payer.account, payerAuthorizer.account, address(token), 9, EXPIRY, second);
        vm.expectRevert(abi.encodeWithSelector(IKeys.WalletSignatureInvalid.selector, payer.account));
        keys.setCapFor(payer.account, payerAuthorizer.account, address(token), 5, EXPIRY, first);
        vm.assertEq(keys.capOf(payer.account, payerAuthorizer.account, address(token)).amount, 9);
        vm.assertEq(keys.nonces(payer.account), 2);
        vm.warp(EXPIRY + 1);
        bytes memory late = _capChange(1, 2);
        vm.expectRevert(abi.encodeWithSelector(IKeys.DeadlinePassed.selector, EXPIRY));
        keys.setCapFor(payer.account, payerAuthorizer.account, address(token), 1, EXPIRY, late);
    }

    // Asking

    function test_standings_areThoseOfEach() public {
        vm.startPrank(payer.account);
        keys.register(_delegation());
        keys.revoke(OTHER_DEVICE, address(0));
        vm.stopPrank();
        Speaker[] memory speakers = new Speaker[](4);
        speakers[0] = Speaker(payer.account, DEVICE, payerAuthorizer.account);
        speakers[1] = Speaker(payer.account, OTHER_DEVICE, payerAuthorizer.account);
        speakers[2] = Speaker(payee.account, DEVICE, payerAuthorizer.account);
        speakers[3] = Speaker(payer.account, OTHER_DEVICE, address(0));
        Standing[] memory found = keys.standings(speakers);
        vm.assertTrue(found[0] == Standing.Registered && found[1] == Standing.Revoked);
        vm.assertTrue(found[2] == Standing.Unknown && found[3] == Standing.Revoked);
    }

    function _delegation() private view returns (Digests.Delegation memory) {
        return Digests.Delegation(payer.account, DEVICE, payerAuthorizer.account, EXPIRY);
    }

    function _revocation(bytes32 device, address authorizer, uint256 deadline) private view returns (bytes memory) {
        return signature(payer.key, keys.revocationDigest(payer.account, device, authorizer, deadline));
    }

    function _capChange(uint104 cap, uint256 nonce) private view returns (bytes memory) {
        bytes32 digest =
            keys.capChangeDigest(payer.account, payerAuthorizer.account, address(token), cap, nonce, EXPIRY);
        return signature(payer.key, digest);
    }

    function _standing(Standing expected) private view {
        vm.assertEq(
            uint256(keys.standing(payer.account, DEVICE, payerAuthorizer.account)), uint256(expected), "standing"
        );
    }
}
