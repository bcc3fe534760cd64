// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ChannelConfig} from "../types/Channel.sol";
import {Block, SignedBlock, SignedDelegation, SignedReceipt} from "../types/Evidence.sol";
import {IBonds} from "./IBonds.sol";

/// @title A provider's stake, slashed only for what this contract can check itself.
/// @notice A provider bonds money as a sign that it does not lie. Whoever shows that it signed two contradicting receipts, or
/// a false statement about a block of a file, has `PENALTY` (or what is left) taken from the bond: half for the reporter, the
/// rest is burned. Nobody decides anything, nobody owns, pauses or upgrades the contract.
/// @dev Both kinds of evidence are signatures of the provider's authorizer, so they come with the delegation by which the
/// wallet made it its own: that a channel names the two proves nothing, for the payer writes what it likes there. A wallet
/// answers for an authorizer until the delegation's expiry, or its revocation in `Keys` if that is earlier, and `GRACE`
/// seconds more, so that it cannot revoke faster than others can report. Whoever steals an authorizer can, until then, slash
/// the wallet that named it: a stake raises the price of a stolen key from its open channels to its bond.
///
/// Reporting takes two steps, so that nobody takes the reward by copying what he sees under way: a commitment to the
/// evidence and the reporter, and after `REVEAL_DELAY` the evidence. A provider that reports itself loses half at least.
interface IStake is IBonds {
    /// @notice Somebody will report something.
    event Committed(bytes32 indexed commitment);

    /// @notice A provider was slashed: the reporter got `reward`, and `burned` is gone.
    event Slashed(
        address indexed provider, bytes32 indexed evidence, address indexed reporter, uint256 reward, uint256 burned
    );

    /// @notice The same was committed to before.
    error CommitmentExists(bytes32 commitment);
    /// @notice The sender did not commit to this evidence, or less than `REVEAL_DELAY` ago (then `ready` is not zero).
    error CommitmentNotReady(bytes32 commitment, uint256 ready);
    /// @notice This was reported before.
    error EvidenceUsed(bytes32 evidence);
    /// @notice The provider has nothing bonded.
    error NothingBonded(address provider);
    /// @notice The receipts are not of one channel, session and number, or are one and the same.
    error ReceiptsDoNotContradict();
    /// @notice The receipts are of another channel, or the channel pays another wallet or names another authorizer.
    error ChannelOfAnother(bytes32 channelId);
    /// @notice The authorizer did not sign this.
    error EvidenceSignatureInvalid(bytes32 digest);
    /// @notice The wallet did not sign this delegation, and it is not registered either.
    error DelegationInvalid(address wallet, address authorizer);
    /// @notice The wallet answered for this authorizer until then (seconds).
    error AuthorizerNoLongerAnswers(address wallet, address authorizer, uint256 until);
    /// @notice The proof does not lead from that leaf to the root.
    error ProofInvalid();
    /// @notice The block was served as it should be.
    error BlockIsTrue();

    /// @notice Commits the sender to a report: `keccak256(abi.encode(evidence, reporter, salt))`.
    function commit(bytes32 commitment) external;

    /// @notice Reports two different receipts with one number, both signed by the payee's authorizer.
    /// @param config The channel of both. Its payee is slashed.
    /// @param salt That of the sender's commitment.
    function reportReceipts(
        SignedDelegation calldata delegation,
        ChannelConfig calldata config,
        SignedReceipt calldata first,
        SignedReceipt calldata second,
        bytes32 salt
    ) external;

    /// @notice Reports that a block which the provider's authorizer signed for is not in the file. The delegation's wallet is
    /// slashed.
    /// @param leaf The hash of the block that is.
    /// @param proof The way from it to the root.
    /// @param salt That of the sender's commitment.
    function reportBlock(
        SignedDelegation calldata delegation,
        SignedBlock calldata served,
        bytes32 leaf,
        bytes32[] calldata proof,
        bytes32 salt
    ) external;

    /// @notice The name of two contradicting receipts: one for each wallet, channel, session and number.
    function receiptsEvidence(address provider, bytes32 channelId, bytes32 sessionId, uint64 sequence)
        external
        pure
        returns (bytes32);

    /// @notice The name of a false block: one for each wallet and statement.
    function blockEvidence(address provider, Block calldata statement) external view returns (bytes32);

    /// @notice Whether this was reported.
    function isUsed(bytes32 evidence) external view returns (bool);

    /// @notice When a commitment was made (seconds); zero if it was not.
    function committedAt(bytes32 commitment) external view returns (uint256);

    /// @notice What one piece of evidence costs the provider, in the token's smallest unit.
    function PENALTY() external view returns (uint128);

    /// @notice Seconds for which a wallet answers for an authorizer that expired or was revoked: 7 days.
    function GRACE() external view returns (uint40);

    /// @notice Seconds between a commitment and the report: 5 minutes.
    function REVEAL_DELAY() external view returns (uint40);

    /// @notice The channel contract under whose domain receipts and delegations are signed.
    function CHANNELS() external view returns (address);

    /// @notice The registry that knows which keys are revoked.
    function KEYS() external view returns (address);

    /// @notice The EIP-712 domain separator: "Sparewire Stake", version "1", this chain, this contract.
    function domainSeparator() external view returns (bytes32);

    /// @notice What a provider's authorizer signs for a block that it serves:
    /// `Block(bytes32 root,uint64 length,uint64 index,bytes32 leaf)`.
    function blockDigest(Block calldata statement) external view returns (bytes32);
}
