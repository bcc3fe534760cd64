// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {IChannels} from "./interfaces/IChannels.sol";
import {IKeys} from "./interfaces/IKeys.sol";
import {Digests} from "./libraries/Digests.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {Cap, Speaker, Standing} from "./types/Standing.sol";

/// @title Sparewire's registry of keys, version 1. What each function means is said in `IKeys`.
contract Keys is IKeys, EIP712, Nonces {
    bytes32 private constant REVOCATION_TYPEHASH =
        keccak256("Revocation(address wallet,bytes32 device,address authorizer,uint256 deadline)");
    bytes32 private constant CAP_CHANGE_TYPEHASH = keccak256(
        "CapChange(address wallet,address authorizer,address token,uint104 cap,uint256 nonce,uint256 deadline)"
    );

    /// @inheritdoc IKeys
    address public immutable CHANNELS;

    mapping(address wallet => mapping(bytes32 device => uint64)) public deviceRevokedAt;
    mapping(address wallet => mapping(address authorizer => uint64)) public authorizerRevokedAt;
    mapping(address wallet => mapping(bytes32 device => mapping(address authorizer => uint64))) public expiryOf;
    mapping(address wallet => mapping(address authorizer => mapping(address token => Cap))) private _caps;

    constructor(IChannels channels) EIP712("Sparewire Keys", "1") {
        CHANNELS = address(channels);
    }

    // Registering

    /// @inheritdoc IKeys
    function register(Digests.Delegation calldata delegation) external {
        _requireSender(delegation.wallet);
        _register(delegation);
    }

    /// @inheritdoc IKeys
    function registerFor(Digests.Delegation calldata delegation, bytes calldata signature) external {
        _requireSigned(delegation.wallet, delegationDigest(delegation), signature);
        _register(delegation);
    }

    // Revoking

    /// @inheritdoc IKeys
    function revoke(bytes32 device, address authorizer) external {
        _revoke(msg.sender, device, authorizer);
    }

    /// @inheritdoc IKeys
    function revokeFor(address wallet, bytes32 device, address authorizer, uint256 deadline, bytes calldata signature)
        external
    {
        _revokeFor(wallet, device, authorizer, deadline, signature);
    }

    /// @inheritdoc IKeys
    function rotate(bytes32 oldDevice, address oldAuthorizer, Digests.Delegation calldata next) external {
        _requireSender(next.wallet);
        _revoke(msg.sender, oldDevice, oldAuthorizer);
        _register(next);
    }

    /// @inheritdoc IKeys
    function rotateFor(
        bytes32 oldDevice,
        address oldAuthorizer,
        uint256 deadline,
        bytes calldata revocationSignature,
        Digests.Delegation calldata next,
        bytes calldata delegationSignature
    ) external {
        _revokeFor(next.wallet, oldDevice, oldAuthorizer, deadline, revocationSignature);
        _requireSigned(next.wallet, delegationDigest(next), delegationSignature);
        _register(next);
    }

    // Caps

    /// @inheritdoc IKeys
    function setCap(address authorizer, address token, uint104 cap) external {
        _setCap(msg.sender, authorizer, token, cap);
    }

    /// @inheritdoc IKeys
    function setCapFor(
        address wallet,
        address authorizer,
        address token,
        uint104 cap,
        uint256 deadline,
        bytes calldata signature
    ) external {
        _requireInTime(deadline);
        bytes32 digest = capChangeDigest(wallet, authorizer, token, cap, _useNonce(wallet), deadline);
        _requireSigned(wallet, digest, signature);
        _setCap(wallet, authorizer, token, cap);
    }

    // Views

    /// @inheritdoc IKeys
    function standing(address wallet, bytes32 device, address authorizer) public view returns (Standing) {
        if (deviceRevokedAt[wallet][device] != 0 || authorizerRevokedAt[wallet][authorizer] != 0) {
            return Standing.Revoked;
        }
        uint64 expiry = expiryOf[wallet][device][authorizer];
        if (expiry == 0) return Standing.Unknown;
        return block.timestamp <= expiry ? Standing.Registered : Standing.Expired;
    }

    /// @inheritdoc IKeys
    function standings(Speaker[] calldata speakers) external view returns (Standing[] memory found) {
        found = new Standing[](speakers.length);
        for (uint256 i = 0; i < speakers.length; ++i) {
            found[i] = standing(speakers[i].wallet, speakers[i].device, speakers[i].authorizer);
        }
    }

    /// @inheritdoc IKeys
    function capOf(address wallet, address authorizer, address token) external view returns (Cap memory) {
        return _caps[wallet][authorizer][token];
    }

    /// @inheritdoc IKeys
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    /// @inheritdoc IKeys
    function delegationDigest(Digests.Delegation calldata delegation) public view returns (bytes32) {
        return Digests.delegation(IChannels(CHANNELS).domainSeparator(), delegation);
    }

    /// @inheritdoc IKeys
    function revocationDigest(address wallet, bytes32 device, address authorizer, uint256 deadline)
        public
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(keccak256(abi.encode(REVOCATION_TYPEHASH, wallet, device, authorizer, deadline)));
    }

    /// @inheritdoc IKeys
    function capChangeDigest(
        address wallet,
        address authorizer,
        address token,
        uint104 cap,
        uint256 nonce,
        uint256 deadline
    ) public view returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(abi.encode(CAP_CHANGE_TYPEHASH, wallet, authorizer, token, cap, nonce, deadline))
        );
    }

    // How it is kept

    function _register(Digests.Delegation calldata delegation) private {
        (address wallet, bytes32 device, address authorizer) =
            (delegation.wallet, delegation.device, delegation.authorizer);
        if (device == 0 || authorizer == address(0)) revert KeyMissing();
        if (deviceRevokedAt[wallet][device] != 0) revert DeviceIsRevoked(wallet, device);
        if (authorizerRevokedAt[wallet][authorizer] != 0) revert AuthorizerIsRevoked(wallet, authorizer);
        if (block.timestamp > delegation.expiry) revert DelegationExpired(delegation.expiry);
        if (delegation.expiry <= expiryOf[wallet][device][authorizer]) return;
        expiryOf[wallet][device][authorizer] = delegation.expiry;
        emit Registered(wallet, device, authorizer, delegation.expiry);
    }

    function _revokeFor(address wallet, bytes32 device, address authorizer, uint256 deadline, bytes calldata signature)
        private
    {
        _requireInTime(deadline);
        _requireSigned(wallet, revocationDigest(wallet, device, authorizer, deadline), signature);
        _revoke(wallet, device, authorizer);
    }

    /// A key that is revoked already keeps the time when it first was.
    function _revoke(address wallet, bytes32 device, address authorizer) private {
        if (device == 0 && authorizer == address(0)) revert KeyMissing();
        if (device != 0 && deviceRevokedAt[wallet][device] == 0) {
            deviceRevokedAt[wallet][device] = uint64(block.timestamp);
            emit DeviceRevoked(wallet, device);
        }
        if (authorizer != address(0) && authorizerRevokedAt[wallet][authorizer] == 0) {
            authorizerRevokedAt[wallet][authorizer] = uint64(block.timestamp);
            emit AuthorizerRevoked(wallet, authorizer);
        }
    }

    function _setCap(address wallet, address authorizer, address token, uint104 cap) private {
        if (authorizer == address(0)) revert KeyMissing();
        _caps[wallet][authorizer][token] = Cap(cap, true);
        emit CapChanged(wallet, authorizer, token, cap);
    }

    function _requireSender(address wallet) private view {
        if (msg.sender != wallet) revert SenderNotWallet(msg.sender, wallet);
    }

    function _requireInTime(uint256 deadline) private view {
        if (block.timestamp > deadline) revert DeadlinePassed(deadline);
    }

    /// The zero address is what a wrong signature recovers to, so it is no wallet.
    function _requireSigned(address wallet, bytes32 digest, bytes calldata signature) private view {
        if (wallet == address(0)) revert WalletInvalid();
        if (!Signatures.isSignedBySide(address(0), wallet, digest, signature)) revert WalletSignatureInvalid(wallet);
    }
}
