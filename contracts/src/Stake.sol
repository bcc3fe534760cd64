// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {Bonds} from "./Bonds.sol";
import {IChannels} from "./interfaces/IChannels.sol";
import {IKeys} from "./interfaces/IKeys.sol";
import {IStake} from "./interfaces/IStake.sol";
import {Digests} from "./libraries/Digests.sol";
import {PieceTree} from "./libraries/PieceTree.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {ChannelConfig} from "./types/Channel.sol";
import {Block, SignedBlock, SignedDelegation, SignedReceipt} from "./types/Evidence.sol";

/// @title Sparewire's stake, version 1. What each function means is said in `IStake`.
contract Stake is IStake, Bonds, EIP712 {
    bytes32 private constant BLOCK_TYPEHASH = keccak256("Block(bytes32 root,uint64 length,uint64 index,bytes32 leaf)");

    /// @inheritdoc IStake
    uint40 public constant GRACE = 7 days;
    /// @inheritdoc IStake
    uint40 public constant REVEAL_DELAY = 5 minutes;
    /// @inheritdoc IStake
    address public immutable CHANNELS;
    /// @inheritdoc IStake
    address public immutable KEYS;
    /// @inheritdoc IStake
    uint128 public immutable PENALTY;

    /// @inheritdoc IStake
    mapping(bytes32 commitment => uint256) public committedAt;
    /// @inheritdoc IStake
    mapping(bytes32 evidence => bool) public isUsed;

    constructor(IKeys keys, address token, uint128 penalty) Bonds(token) EIP712("Sparewire Stake", "1") {
        if (penalty == 0) revert AmountZero();
        (CHANNELS, KEYS, PENALTY) = (keys.CHANNELS(), address(keys), penalty);
    }

    // Reporting

    /// @inheritdoc IStake
    function commit(bytes32 commitment) external nonReentrantView {
        if (committedAt[commitment] != 0) revert CommitmentExists(commitment);
        committedAt[commitment] = block.timestamp;
        emit Committed(commitment);
    }

    /// @inheritdoc IStake
    function reportReceipts(
        SignedDelegation calldata delegation,
        ChannelConfig calldata config,
        SignedReceipt calldata first,
        SignedReceipt calldata second,
        bytes32 salt
    ) external nonReentrant {
        address provider = delegation.delegation.wallet;
        bytes32 id = first.receipt.channelId;
        bytes32 evidence = receiptsEvidence(provider, id, first.receipt.sessionId, first.receipt.sequence);
        _use(evidence, salt);

        address authorizer = _answering(delegation);
        if (
            IChannels(CHANNELS).channelId(config) != id || config.payee != provider
                || config.payeeAuthorizer != authorizer
        ) revert ChannelOfAnother(id);
        bytes32 separator = IChannels(CHANNELS).domainSeparator();
        bytes32 one = Digests.receipt(separator, first.receipt);
        bytes32 other = Digests.receipt(separator, second.receipt);
        if (
            one == other || second.receipt.channelId != id || second.receipt.sessionId != first.receipt.sessionId
                || second.receipt.sequence != first.receipt.sequence
        ) revert ReceiptsDoNotContradict();
        _requireSigned(authorizer, one, first.signature);
        _requireSigned(authorizer, other, second.signature);
        _slash(provider, evidence);
    }

    /// @inheritdoc IStake
    function reportBlock(
        SignedDelegation calldata delegation,
        SignedBlock calldata served,
        bytes32 leaf,
        bytes32[] calldata proof,
        bytes32 salt
    ) external nonReentrant {
        address provider = delegation.delegation.wallet;
        Block calldata statement = served.statement;
        bytes32 evidence = blockEvidence(provider, statement);
        _use(evidence, salt);

        address authorizer = _answering(delegation);
        _requireSigned(authorizer, blockDigest(statement), served.signature);
        if (!PieceTree.contains(statement.root, statement.length, statement.index, leaf, proof)) revert ProofInvalid();
        if (leaf == statement.leaf) revert BlockIsTrue();
        _slash(provider, evidence);
    }

    // Views

    /// @inheritdoc IStake
    function receiptsEvidence(address provider, bytes32 channelId, bytes32 sessionId, uint64 sequence)
        public
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(Digests.RECEIPT_TYPEHASH, provider, channelId, sessionId, sequence));
    }

    /// @inheritdoc IStake
    function blockEvidence(address provider, Block calldata statement) public view returns (bytes32) {
        return keccak256(abi.encode(BLOCK_TYPEHASH, provider, blockDigest(statement)));
    }

    /// @inheritdoc IStake
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    /// @inheritdoc IStake
    function blockDigest(Block calldata statement) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(BLOCK_TYPEHASH, statement)));
    }

    // How evidence is judged

    /// Once, and by whom committed to it in time.
    function _use(bytes32 evidence, bytes32 salt) private {
        if (isUsed[evidence]) revert EvidenceUsed(evidence);
        isUsed[evidence] = true;
        bytes32 commitment = keccak256(abi.encode(evidence, msg.sender, salt));
        uint256 since = committedAt[commitment];
        uint256 ready = since == 0 ? 0 : since + REVEAL_DELAY;
        if (ready == 0 || block.timestamp < ready) revert CommitmentNotReady(commitment, ready);
    }

    /// The authorizer that the delegation's wallet answers for now.
    /// @dev A registered delegation needs no signature, for a wallet of code could have changed its mind about it.
    function _answering(SignedDelegation calldata signed) private view returns (address authorizer) {
        Digests.Delegation calldata delegation = signed.delegation;
        address wallet = delegation.wallet;
        authorizer = delegation.authorizer;
        // Zero is what wrong signatures recover to.
        if (wallet == address(0) || authorizer == address(0)) revert DelegationInvalid(wallet, authorizer);
        uint64 registered = IKeys(KEYS).expiryOf(wallet, delegation.device, authorizer);
        if (registered == 0 || registered < delegation.expiry) {
            bytes32 digest = Digests.delegation(IChannels(CHANNELS).domainSeparator(), delegation);
            if (!Signatures.isSignedBySide(address(0), wallet, digest, signed.signature)) {
                revert DelegationInvalid(wallet, authorizer);
            }
        }
        uint256 until = delegation.expiry;
        uint256 revokedAt = IKeys(KEYS).authorizerRevokedAt(wallet, authorizer);
        if (revokedAt != 0 && revokedAt < until) until = revokedAt;
        until += GRACE;
        if (block.timestamp > until) revert AuthorizerNoLongerAnswers(wallet, authorizer, until);
    }

    function _requireSigned(address authorizer, bytes32 digest, bytes calldata signature) private pure {
        if (Signatures.recover(digest, signature) != authorizer) revert EvidenceSignatureInvalid(digest);
    }

    /// At most half for the reporter, and never more than is bonded (C8).
    function _slash(address provider, bytes32 evidence) private {
        uint256 slashed = _take(provider, PENALTY);
        if (slashed == 0) revert NothingBonded(provider);
        uint256 reward = slashed / 2;
        emit Slashed(provider, evidence, msg.sender, reward, slashed - reward);
        _pay(BURNED, slashed - reward);
        _pay(msg.sender, reward);
    }
}
