// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Channels} from "../../src/Channels.sol";
import {Keys} from "../../src/Keys.sol";
import {IKeys} from "../../src/interfaces/IKeys.sol";
import {Digests} from "../../src/libraries/Digests.sol";
import {Standing} from "../../src/types/Standing.sol";
import {Wallet} from "../support/Wallet.sol";
import {bound, vm} from "../support/Vm.sol";
import {Campaign, Tally} from "./Tally.sol";

/// Two wallets (a key, and a contract), three devices, three authorizers, and all that is ever said of them, by the wallets
/// or by relays, new or again. The ledger is kept by the rules, never by asking the contract.
contract KeysWorld is Tally {
    struct Said {
        Digests.Delegation delegation;
        bytes signature;
    }

    Keys public keys = new Keys(new Channels());
    address[2] public wallets;
    bytes32[3] public devices = [keccak256("device 0"), keccak256("device 1"), keccak256("device 2")];
    address[3] public authorizers = [address(0xa0), address(0xa1), address(0xa2)];

    mapping(address wallet => mapping(bytes32 device => uint256)) public deviceRevokedAt;
    mapping(address wallet => mapping(address authorizer => uint256)) public authorizerRevokedAt;
    mapping(address wallet => mapping(bytes32 device => mapping(address authorizer => uint256))) public expiryOf;
    mapping(address wallet => mapping(address authorizer => uint256)) public capOf;

    uint256 private constant KEY = uint256(keccak256("owner"));
    address private constant TOKEN = address(0x70);
    Said[] private _said;

    constructor() {
        wallets = [vm.addr(KEY), address(new Wallet(vm.addr(KEY)))];
        _expect(
            "Keys.register Keys.registerFor Keys.revoke Keys.revokeFor Keys.rotate Keys.rotateFor "
            "Keys.setCap Keys.setCapFor keysReplay keysRefusedRegistration keysRefusedReplay "
            "keysRefusedRotation keysRevokedAgain keysRevokedKnown keysPass"
        );
    }

    function register(uint256 which, uint64 life, bool relayed) external timed {
        (Digests.Delegation memory delegation, bytes memory signature) = _delegation(which, life);
        bool refused = _isRevoked(delegation);
        vm.prank(relayed ? address(this) : delegation.wallet);
        (bool done,) = address(keys)
            .call(
                relayed
                    ? abi.encodeCall(IKeys.registerFor, (delegation, signature))
                    : abi.encodeCall(IKeys.register, (delegation))
            );
        vm.assertTrue(done == !refused, "registered though revoked, or the other way round");
        if (!done) return _count("keysRefusedRegistration");
        _count(relayed ? "Keys.registerFor" : "Keys.register");
        _registered(delegation);
    }

    /// Every delegation ever signed, again.
    function replay(uint256 which) external timed {
        if (_said.length == 0) _delegation(which, 1);
        Said memory said = _said[which % _said.length];
        bool refused = _isRevoked(said.delegation) || _now > said.delegation.expiry;
        (bool done,) = address(keys).call(abi.encodeCall(IKeys.registerFor, (said.delegation, said.signature)));
        vm.assertTrue(done == !refused, "replayed");
        _count(done ? "keysReplay" : "keysRefusedReplay");
        if (done) _registered(said.delegation);
    }

    function revoke(uint256 which, uint8 what, bool relayed) external timed {
        (address wallet, bytes32 device, address authorizer) = _some(which);
        if (what % 8 != 0) device = 0;
        else authorizer = address(0);
        // Revocations are for good: were they as frequent as the rest, nothing would be left soon.
        bool known = what % 3 == 0;
        if (!known) (device, authorizer) = (keccak256(abi.encode(which)), address(uint160(which | 1 << 80)));
        if (relayed) {
            bytes memory signature = _sign(KEY, keys.revocationDigest(wallet, device, authorizer, _now));
            keys.revokeFor(wallet, device, authorizer, _now, signature);
        } else {
            vm.prank(wallet);
            keys.revoke(device, authorizer);
        }
        bool isNew = device != 0 ? deviceRevokedAt[wallet][device] == 0 : authorizerRevokedAt[wallet][authorizer] == 0;
        if (!isNew) return _count("keysRevokedAgain");
        _count(relayed ? "Keys.revokeFor" : "Keys.revoke");
        if (known) _count("keysRevokedKnown");
        _revoked(wallet, device, authorizer);
    }

    function rotate(uint256 which, uint256 next, uint64 life, bool relayed) external timed {
        (, bytes32 device,) = _some(which);
        (Digests.Delegation memory delegation, bytes memory signature) = _delegation(next, life);
        if (which % 4 != 0) device = keccak256(abi.encode(which));
        bool refused = _isRevoked(delegation) || delegation.device == device;
        bytes memory call = abi.encodeCall(IKeys.rotate, (device, address(0), delegation));
        if (relayed) {
            bytes memory revocation = _sign(KEY, keys.revocationDigest(delegation.wallet, device, address(0), _now));
            call = abi.encodeCall(IKeys.rotateFor, (device, address(0), _now, revocation, delegation, signature));
        }
        vm.prank(relayed ? address(this) : delegation.wallet);
        (bool done,) = address(keys).call(call);
        vm.assertTrue(done == !refused, "rotated");
        if (!done) return _count("keysRefusedRotation");
        _count(relayed ? "Keys.rotateFor" : "Keys.rotate");
        _revoked(delegation.wallet, device, address(0));
        _registered(delegation);
    }

    function setCap(uint256 which, uint104 cap, bool relayed) external timed {
        (address wallet,, address authorizer) = _some(which);
        if (relayed) {
            bytes32 digest = keys.capChangeDigest(wallet, authorizer, TOKEN, cap, keys.nonces(wallet), _now);
            bytes memory signature = _sign(KEY, digest);
            keys.setCapFor(wallet, authorizer, TOKEN, cap, _now, signature);
            (bool done,) =
                address(keys).call(abi.encodeCall(IKeys.setCapFor, (wallet, authorizer, TOKEN, cap, _now, signature)));
            vm.assertFalse(done, "a cap was changed twice by one signature");
        } else {
            vm.prank(wallet);
            keys.setCap(authorizer, TOKEN, cap);
        }
        _count(relayed ? "Keys.setCapFor" : "Keys.setCap");
        capOf[wallet][authorizer] = cap;
    }

    function pass(uint256 time) external counted("keysPass") {
        _pass(bound(time, 1, 10 days));
    }

    /// What the rules say.
    function standing(address wallet, bytes32 device, address authorizer) external view returns (Standing) {
        if (deviceRevokedAt[wallet][device] != 0 || authorizerRevokedAt[wallet][authorizer] != 0) {
            return Standing.Revoked;
        }
        uint256 expiry = expiryOf[wallet][device][authorizer];
        if (expiry == 0) return Standing.Unknown;
        return _now > expiry ? Standing.Expired : Standing.Registered;
    }

    function clock() external view returns (uint256) {
        return _now;
    }

    function _some(uint256 which) private view returns (address, bytes32, address) {
        return (wallets[which % 2], devices[which / 2 % 3], authorizers[which / 6 % 3]);
    }

    function _delegation(uint256 which, uint64 life) private returns (Digests.Delegation memory, bytes memory) {
        (address wallet, bytes32 device, address authorizer) = _some(which);
        Digests.Delegation memory delegation =
            Digests.Delegation(wallet, device, authorizer, uint64(_now + life % 30 days));
        bytes memory signature = _sign(KEY, keys.delegationDigest(delegation));
        Said storage said = _said.push();
        (said.delegation, said.signature) = (delegation, signature);
        return (delegation, signature);
    }

    function _isRevoked(Digests.Delegation memory said) private view returns (bool) {
        return deviceRevokedAt[said.wallet][said.device] != 0 || authorizerRevokedAt[said.wallet][said.authorizer] != 0;
    }

    function _registered(Digests.Delegation memory said) private {
        uint256 expiry = expiryOf[said.wallet][said.device][said.authorizer];
        if (said.expiry > expiry) expiryOf[said.wallet][said.device][said.authorizer] = said.expiry;
    }

    function _revoked(address wallet, bytes32 device, address authorizer) private {
        if (device != 0 && deviceRevokedAt[wallet][device] == 0) deviceRevokedAt[wallet][device] = _now;
        if (authorizer != address(0) && authorizerRevokedAt[wallet][authorizer] == 0) {
            authorizerRevokedAt[wallet][authorizer] = _now;
        }
    }
}

/// Revocation is for good, an expiry is the longest that was ever registered, a cap the last that the wallet said.
contract KeysInvariants is Campaign {
    KeysWorld private world;

    function setUp() public {
        world = new KeysWorld();
    }

    function _target() internal view override returns (address, bytes4[] memory selectors) {
        selectors = new bytes4[](6);
        selectors[0] = KeysWorld.register.selector;
        selectors[1] = KeysWorld.replay.selector;
        selectors[2] = KeysWorld.revoke.selector;
        selectors[3] = KeysWorld.rotate.selector;
        selectors[4] = KeysWorld.setCap.selector;
        selectors[5] = KeysWorld.pass.selector;
        return (address(world), selectors);
    }

    function invariant_standingsAreThoseOfTheLedger() public {
        vm.warp(world.clock());
        Keys keys = world.keys();
        for (uint256 i = 0; i < 18; ++i) {
            (address wallet, bytes32 device, address authorizer) =
                (world.wallets(i % 2), world.devices(i / 2 % 3), world.authorizers(i / 6));
            Standing expected = world.standing(wallet, device, authorizer);
            vm.assertEq(uint256(keys.standing(wallet, device, authorizer)), uint256(expected), "standing");
            vm.assertEq(keys.deviceRevokedAt(wallet, device), world.deviceRevokedAt(wallet, device), "device");
            vm.assertEq(
                keys.authorizerRevokedAt(wallet, authorizer),
                world.authorizerRevokedAt(wallet, authorizer),
                "authorizer"
            );
            vm.assertEq(keys.capOf(wallet, authorizer, address(0x70)).amount, world.capOf(wallet, authorizer), "cap");
        }
    }
}
