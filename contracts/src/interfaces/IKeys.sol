// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Digests} from "../libraries/Digests.sol";
import {Cap, Speaker, Standing} from "../types/Standing.sol";

/// @title Which devices and authorizers act for a wallet, and which never again.
/// @notice A wallet ties a device key (Ed25519) and an authorizer key (secp256k1) to itself by signing a `Delegation`, which
/// peers show each other; nothing need be on chain for that. What is said here comes on top: a registration makes a
/// delegation public, a revocation ends a key for good before its delegations expire, a cap says how much the channels
/// of an authorizer may hold.
/// @dev Nobody owns, pauses or upgrades the contract; it holds no money and calls nobody but EIP-1271 wallets, statically.
/// Everything that a wallet can do itself, anybody can relay with the wallet's EIP-712 signature (EOA or EIP-1271; an EOA's
/// key counts even if the account has code, EIP-7702).
///
/// Replays. A `Delegation` is what it is wherever it is shown, so its registration has no nonce: a second one changes
/// nothing, an older one does not shorten a newer, and none brings a revoked key back. A `Revocation` is for good, so a
/// second one changes nothing either; signed with a far deadline it can lie in a drawer for the day when a device is lost.
/// Only caps go up and down: a `CapChange` carries a nonce. Who is faster with a signed message does what its sender wanted.
interface IKeys {
    // Events

    /// @notice A delegation was made public: the device and the authorizer act for the wallet until `expiry` (seconds).
    event Registered(address indexed wallet, bytes32 indexed device, address indexed authorizer, uint64 expiry);

    /// @notice This device never speaks for the wallet again.
    event DeviceRevoked(address indexed wallet, bytes32 indexed device);

    /// @notice This authorizer never signs for the wallet again. Channels that name it stay what they are: vouchers that
    /// it signed, and that it signs, count in them until they are closed.
    event AuthorizerRevoked(address indexed wallet, address indexed authorizer);

    /// @notice Channels of the wallet that name this authorizer are to hold at most `cap` together.
    event CapChanged(address indexed wallet, address indexed authorizer, address indexed token, uint104 cap);

    // Refusals

    /// @notice Neither a device nor an authorizer is named, or only one where both are needed.
    error KeyMissing();
    /// @notice The zero address is no wallet.
    error WalletInvalid();
    /// @notice The sender can say so for itself only.
    error SenderNotWallet(address sender, address wallet);
    /// @notice The device was revoked, which is for good.
    error DeviceIsRevoked(address wallet, bytes32 device);
    /// @notice The authorizer was revoked, which is for good.
    error AuthorizerIsRevoked(address wallet, address authorizer);
    /// @notice The delegation has expired.
    error DelegationExpired(uint64 expiry);
    /// @notice The signed message was to be sent by then (seconds).
    error DeadlinePassed(uint256 deadline);
    /// @notice The wallet did not sign this.
    error WalletSignatureInvalid(address wallet);

    // Registering

    /// @notice Registers a delegation of the sender's. A longer one of the same keys stays as it is.
    function register(Digests.Delegation calldata delegation) external;

    /// @notice As `register`, with the wallet's signature of the `Delegation` under the domain of `Channels`: the one that the
    /// keys show to peers. Anybody may send it.
    function registerFor(Digests.Delegation calldata delegation, bytes calldata signature) external;

    // Revoking

    /// @notice Revokes a device, an authorizer or both of the sender's, registered or not, for good. Zero leaves one out.
    function revoke(bytes32 device, address authorizer) external;

    /// @notice As `revoke`, with the wallet's signature of the `Revocation`. Anybody may send it until `deadline`.
    function revokeFor(address wallet, bytes32 device, address authorizer, uint256 deadline, bytes calldata signature)
        external;

    /// @notice Revokes old keys of the sender's and registers new ones, both or neither. Zero leaves an old key as it is.
    function rotate(bytes32 oldDevice, address oldAuthorizer, Digests.Delegation calldata next) external;

    /// @notice As `rotate`, with both of the wallet's signatures. Should somebody have sent one of them ahead, this goes on
    /// with the other. Anybody may send it until `deadline`.
    function rotateFor(
        bytes32 oldDevice,
        address oldAuthorizer,
        uint256 deadline,
        bytes calldata revocationSignature,
        Digests.Delegation calldata next,
        bytes calldata delegationSignature
    ) external;

    // Caps

    /// @notice Says how much the sender's channels that name `authorizer` are to hold together in `token`.
    /// @dev The figure binds nobody on this chain by itself, and need not: an authorizer spends what channels hold and
    /// nothing else, and only the wallet opens or tops up channels. The wallet's own node refuses to put more in; a payee
    /// that wants to be sure that it deals with an authorizer within its cap adds up what `Channels` says.
    function setCap(address authorizer, address token, uint104 cap) external;

    /// @notice As `setCap`, with the wallet's signature of the `CapChange` with its next nonce. Anybody may send it until
    /// `deadline`.
    function setCapFor(
        address wallet,
        address authorizer,
        address token,
        uint104 cap,
        uint256 deadline,
        bytes calldata signature
    ) external;

    // Views

    /// @notice What the chain says now of a device and an authorizer that claim to act for a wallet. A peer that holds a
    /// valid delegation refuses `Revoked`, and whoever has no delegation at hand trusts `Registered` alone.
    function standing(address wallet, bytes32 device, address authorizer) external view returns (Standing);

    /// @notice As `standing`, of many.
    function standings(Speaker[] calldata speakers) external view returns (Standing[] memory);

    /// @notice Until when (seconds, that second included) a registered delegation of these keys counts; zero if there is none.
    /// Says nothing of revocation.
    function expiryOf(address wallet, bytes32 device, address authorizer) external view returns (uint64);

    /// @notice Since when (seconds) a device is revoked; zero if it is not.
    function deviceRevokedAt(address wallet, bytes32 device) external view returns (uint64);

    /// @notice Since when (seconds) an authorizer is revoked; zero if it is not.
    function authorizerRevokedAt(address wallet, address authorizer) external view returns (uint64);

    /// @notice The wallet's word on how much channels that name this authorizer are to hold together.
    function capOf(address wallet, address authorizer, address token) external view returns (Cap memory);

    /// @notice The channel contract under whose domain delegations are signed.
    function CHANNELS() external view returns (address);

    /// @notice The EIP-712 domain separator: "Sparewire Keys", version "1", this chain, this contract.
    function domainSeparator() external view returns (bytes32);

    /// @notice What a wallet signs to register: `Delegation(...)` under the domain of `Channels`.
    function delegationDigest(Digests.Delegation calldata delegation) external view returns (bytes32);

    /// @notice What a wallet signs to revoke: `Revocation(address wallet,bytes32 device,address authorizer,uint256 deadline)`.
    function revocationDigest(address wallet, bytes32 device, address authorizer, uint256 deadline)
        external
        view
        returns (bytes32);

    /// @notice What a wallet signs to change a cap:
    /// `CapChange(address wallet,address authorizer,address token,uint104 cap,uint256 nonce,uint256 deadline)`.
    function capChangeDigest(
        address wallet,
        address authorizer,
        address token,
        uint104 cap,
        uint256 nonce,
        uint256 deadline
    ) external view returns (bytes32);
}
