//! Bugs that are planted on purpose, to see that the simulator catches them: `make mutants`.
//!
//! In every normal build [`on`] is the constant `false`, and nothing of this is left. Built with
//! `--cfg tercet_mutants`, one build holds all of them, and one is chosen when the simulator starts.

macro_rules! mutants {
    ($($name:ident $what:literal,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mutant { $(#[doc = $what] $name,)* }

        impl Mutant {
            /// Every one, with its name and what it does.
            pub const ALL: &[(Mutant, &'static str, &'static str)] =
                &[$((Mutant::$name, stringify!($name), $what),)*];
        }
    };
}

mutants! {
    VoteTwice "A voter gives its vote in a term to whoever asks.",
    ForgetVote "A restart forgets the vote.",
    VoteBeforeSync "A vote leaves before it is durable.",
    OwnAckBeforeSync "A leader counts its own log before it is durable.",
    AckBeforeSync "A follower acknowledges before its sync.",
    AnyLogWins "A vote is given whatever the candidate's log lacks.",
    CommitOlderTerm "An entry of an older term is committed by counting.",
    CommitUnagreed "A follower commits what it has, not what agrees.",
    AppendUnchecked "Entries are appended whatever stands before them.",
    CutWithoutConflict "A late message cuts what comes after it, though nothing contradicts it.",
    LateSyncVouches "A late sync vouches for bytes that were cut and written again.",
    Disloyal "A follower votes although its leader was just heard.",
    RestartVotesAtOnce "A node votes right after its restart, although it may have heard a leader.",
    LeaseForEver "A lease does not end.",
    LeaseOutlivesHandOver "A leader that asked another to campaign goes on to answer by lease.",
    LeaseFromReply "A lease counts from the answer and not from the question.",
    ReadUnconfirmed "A leader answers reads without asking anybody.",
    UnequalTimeoutsTrusted "A lease rests on the leader's own election timeout, whatever the voters' are.",
    ReadIndexByOlderStamp "A read is answered by the echo of a stamp from before it was asked.",
    LeaseWithoutMargin "A lease leaves no room for clocks that drift.",
    ChangeBeforeOwnCommit "A leader changes the members before it committed an entry of its own term.",
    ChangesOverlap "A leader changes the members while an earlier change is not committed.",
    LearnerCounts "A learner's log counts for commit.",
    RemovedLeaderCounts "A leader that removes itself still counts itself.",
    CutKeepsMembers "A cut leaves the members as the cut entry had them.",
    RestartForgetsMembers "A restart goes back to the members that founded the group.",
    InstallKeepsMembers "An installed snapshot leaves the members as they were.",
    LeaveBeforeCommit "A replica is told to leave before its removal is committed.",
    LivesAreReused "A replica that is added again has the life of the one before.",
    MetaStaysNarrow "The meta group has as many voters as a shard, however many nodes there are.",
    LevelUnasked "The cluster's feature level is raised to what the leader knows, whatever the others know.",
    ProposeAboveLevel "A leader proposes what its group's level does not allow yet.",
    AnyIncarnationVotes "A vote counts whatever life of the voter gives it.",
    CutComesBack "Recovery does not replay cuts.",
    DamageIsTorn "Recovery takes any unit that it can't read for the torn end of the journal.",
    StrayIsTorn "Recovery passes over a whole unit that follows the last one and stands elsewhere.",
    FreshTwice "Recovery takes a journal whose newest segment is gone for a shorter or a fresh one.",
    CheckpointForgetsVotes "A segment's checkpoint holds no votes.",
    FreeWithoutCarry "A segment is freed although entries live in it.",
    SnapshotRecordedEarly "The journal names a snapshot before it is on the disk.",
    SnapshotNamedTooNew "The journal names a newer snapshot than the one on the disk.",
    InstallKeepsState "An installed snapshot does not replace the state.",
    WriteWithoutCopy "A write to what a snapshot in the making did not reach yet does not keep it first.",
    WalkSkipsBuckets "A snapshot leaves out some of the tables' buckets.",
    WalkShowsNewRows "A snapshot in the making shows rows that came after it began.",
    ClockNotRestored "A state that is made of a snapshot begins with a clock at zero.",
    QueueBySlot "A snapshot names a message's queue by where that lies in the maker's memory.",
    SentSnapshotKept "A leader keeps a snapshot that it sent for as long as it leads.",
    MissingSnapshotIsEmpty "A node that does not find a snapshot begins with an empty state.",
    ForgetWindow "A snapshot lacks the remembered outcomes.",
    DetailForgotten "A snapshot lacks the details of refusals.",
    DetailOfWanted "A refused write is told the version that it expected, not the one that is there.",
    FenceReuse "A restored machine issues numbers again.",
    BackupUnconfirmed "A snapshot for a backup is made by whoever believes that it leads.",
    NumbersComeAgain "A restored backup goes on with the numbers that it had.",
    ApplyBeforeCommit "Entries are applied before they are committed.",
    DedupOff "A call that is sent again is done again.",
    ReplyOfAnother "A call is answered with the outcome of the one before it.",
    TermOpensInThePast "A term's first entry carries the time of the entry before it, and sets the group's clock back.",
    ClockOfItsOwn "Whoever follows goes on by its own clock where that is ahead of the leader's.",
    VouchedBeforeOwnCommit "A leader vouches for a session before it has committed in its term.",
    OwnEntryDroppedUnderLoad "A leader's own entry is dropped while clients' entries fill their limit.",
    RenewalsForgotten "Renewals that are refused are forgotten.",
    StagedLifo "What waited for a hand-over that failed is proposed in the wrong order.",
    StagedForgotten "What waited for a hand-over that failed is dropped.",
    StagedOutliveLeader "What waits for a hand-over stays where it is when another leads.",
    MailTwice "Mail that comes again is taken again.",
    MailNotInSnapshot "A snapshot lacks the mail that waits.",
    MailTakenEarly "Mail is called taken once it is proposed.",
    MailOfOldLeader "A new leader does not send the mail that it finds.",
    PushOmitsRows "A push leaves out some of what changed.",
    PushedBeyondCredit "A subscription is pushed more than it has credit for.",
    PushResumesAtNow "A subscription that comes back is not told what changed meanwhile.",
    ReaderNeverCutOff "A subscription that reads nothing while more waits for it is kept.",
    ReaderCutOffEarly "A subscription is cut off after half the time that it has to read.",
    AliveUnbacked "A leader vouches for a session without looking at the applied state.",
    GrantsOutliveSession "A session's locks stay with it when it ends.",
    LockAdmitsAll "A lock that is held lets others in.",
    RedeliverAcked "An acknowledged message is delivered again.",
    NackLosesMessage "A message that is given back is gone.",
    QueueLifo "The last message is delivered first.",
    Barging "A lock whose holders admit it is granted at once, though others wait for it.",
    SharersUnseen "An exclusive acquire does not see who shares the lock.",
    LockLeaseForEver "A lock's lease does not end.",
    LockLeaseShort "A lock's lease ends after half its time.",
    LockLeaseReplaced "A lease that is asked for again may end the grant sooner.",
    AnyFenceReleases "A release is taken with any fence.",
    ReleaseFreesAtOnce "A release frees a lock that was acquired twice.",
    ReleaseNeverFrees "A lock that was acquired twice is freed by no release.",
    SharedUpgrades "A session that shares a lock is granted it exclusively at once.",
    SharersOvertake "Who wants to share a lock is served before an exclusive waiter in front.",
    TryWaits "A try for a lock stands in line.",
    WaitForEver "A wait does not end by its time.",
    WaitShort "A wait ends after half its time.",
    CancelLeavesWaiter "A call that is given up keeps its place in the line.",
    WaitersKeepSession "A session that waits for something does not end.",
    SessionLate "A session lives twice its time after a renewal.",
    SessionShort "A session lives for half its time after a renewal.",
    SessionShortRestored "A session that is restored has half of its time left.",
    WaitersRestoredLifo "Who waited for a lock or a message last is first in line after a restore.",
    LeaseNotRestored "A lock's lease does not end once it was restored.",
    AgainNotRestored "A lock that was acquired twice is restored as acquired once.",
    EndedIsOpened "A session that ended is opened again.",
    PriorityIgnored "Messages are delivered in their order, whatever their priority.",
    LastPriority "A message that comes back is behind all others.",
    VisibilityShort "A message is hidden for half its visibility.",
    VisibilityForEver "A message's visibility does not end.",
    StaleAckTaken "An acknowledgement or a give-back of an earlier delivery is taken.",
    NackDelayIgnored "A message that is given back is ready at once.",
    DelayShort "A delay ends after half its time.",
    DelayForEver "A delay does not end.",
    DelayNotRestored "A delayed message is ready once it was restored.",
    DeliveriesForgotten "A message that comes back counts its deliveries anew.",
    PopsLifo "Who waited for a message last is served first.",
    ExpectAbsentIgnored "A write that expects no line replaces one.",
    ExpectVersionIgnored "A write that expects a version replaces any.",
    LineForEver "A line's time to live is ignored.",
    LineShort "A line ends after half its time to live.",
    LineTimeKept "A write without a time to live leaves the line's as it was.",
    EvictedStillCounts "A line that was evicted still counts against the budget.",
    EvictionSparesOldest "The line that was written longest ago is spared, and the next one is evicted.",
    HintsIgnored "An engine does not hear from the others of its node who leads their groups.",
    SiblingsUnheard "An engine does not hear from the others of its node who the cluster's nodes are.",
    LinkTakesHints "A link that breaks takes with it what other engines of the node said of its peer.",
    SentToSameEngine "Who asks an engine for another one's shard is sent to the engine that was asked.",
    TicksIdle "What is due is not ended by itself, but with the next call.",
}

/// Whether this bug is planted: never, in a normal build.
#[cfg(not(tercet_mutants))]
#[inline(always)]
pub const fn on(_: Mutant) -> bool {
    false
}

#[cfg(tercet_mutants)]
static PLANTED: core::sync::atomic::AtomicUsize = core::sync::atomic::AtomicUsize::new(usize::MAX);

/// Whether this bug is planted.
#[cfg(tercet_mutants)]
pub fn on(mutant: Mutant) -> bool {
    PLANTED.load(core::sync::atomic::Ordering::Relaxed) == mutant as usize
}

/// Plants a bug, for the rest of the process's life.
#[cfg(tercet_mutants)]
pub fn plant(mutant: Mutant) {
    PLANTED.store(mutant as usize, core::sync::atomic::Ordering::Relaxed);
}
