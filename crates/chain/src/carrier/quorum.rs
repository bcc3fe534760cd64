//! How several chain nodes are believed: the rule alone. Nobody is asked here; the answers are given,
//! so that the simulator weighs what its endpoints say by the same rule as the carrier.

/// How many of several nodes must say the same to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorum(usize);

impl Quorum {
    /// `needed` of `members`; `None` where so many cannot agree: none of them, or more than there are.
    pub fn of(needed: usize, members: usize) -> Option<Self> {
        (1..=members).contains(&needed).then_some(Self(needed))
    }

    /// How many must say the same, at least 1.
    pub fn needed(self) -> usize {
        self.0
    }

    /// Which of so many answers are believed: the largest group that `alike` makes of them, in the
    /// order in which they came, if it is a quorum. Among groups of one size, that of the first answer.
    pub fn agreed(
        self,
        answers: usize,
        alike: impl Fn(usize, usize) -> bool,
    ) -> Option<Vec<usize>> {
        let with =
            |at: usize| -> Vec<usize> { (0..answers).filter(|other| alike(at, *other)).collect() };
        let groups = (0..answers).rev().map(with);
        groups.filter(|it| it.len() >= self.0).max_by_key(Vec::len)
    }

    /// The furthest that a quorum has come with something that grows; `None` where fewer say
    /// anything. Fewer liars than a quorum can neither hurry it nor, the others being one, hold it up.
    pub fn reached(self, said: impl IntoIterator<Item = u64>) -> Option<u64> {
        let mut said: Vec<u64> = said.into_iter().collect();
        said.sort_unstable_by(|a, b| b.cmp(a));
        said.get(self.0 - 1).copied()
    }

    /// Whether a nonce was used by another's transaction: as many as `others` say so, and none of
    /// those who know one of `ours` there. Signing anew for a transaction that is there pays twice.
    pub fn displaced(self, others: usize, ours: usize) -> bool {
        others >= self.0 && ours == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_of_three() -> Quorum {
        Quorum::of(2, 3).expect("two of three can agree")
    }

    fn agreed(quorum: Quorum, answers: &[&str]) -> Option<Vec<usize>> {
        quorum.agreed(answers.len(), |a, b| answers[a] == answers[b])
    }

    #[test]
    fn so_many_must_agree_as_there_are_at_most() {
        assert_eq!(Quorum::of(0, 3), None);
        assert_eq!(Quorum::of(4, 3), None);
        assert_eq!(Quorum::of(3, 3).map(Quorum::needed), Some(3));
    }

    #[test]
    fn a_liar_is_outvoted_and_is_not_two() {
        assert_eq!(agreed(two_of_three(), &["lie"]), None);
        assert_eq!(agreed(two_of_three(), &["lie", "truth"]), None);
        assert_eq!(agreed(two_of_three(), &["lie", "truth", "truth"]), Some(vec![1, 2]));
        assert_eq!(agreed(two_of_three(), &["truth", "lie", "truth"]), Some(vec![0, 2]));
    }

    #[test]
    fn the_largest_group_counts_and_the_first_of_equals() {
        let one = Quorum::of(1, 5).expect("one of five");
        assert_eq!(agreed(one, &["a", "b", "b", "a", "b"]), Some(vec![1, 2, 4]));
        assert_eq!(agreed(one, &["a", "b"]), Some(vec![0]));
    }

    #[test]
    fn nobody_alone_is_further_than_the_others() {
        assert_eq!(two_of_three().reached([100, 9_999, 101]), Some(101));
        assert_eq!(two_of_three().reached([0, 100, 101]), Some(100));
        assert_eq!(two_of_three().reached([9_999]), None);
    }

    #[test]
    fn a_nonce_is_anothers_only_where_nobody_knows_one_of_ours() {
        assert!(two_of_three().displaced(2, 0));
        assert!(!two_of_three().displaced(1, 0));
        assert!(!two_of_three().displaced(2, 1));
    }
}
