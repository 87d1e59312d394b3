//! Every kind of finding there is: the first word of its id, and why it matters. docs/check.md has
//! one section for each of them; a test compares.

macro_rules! kinds {
    ($($variant:ident $word:literal $why:literal)*) => {
        /// What sort of thing a finding is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind {
            $(#[doc = $why] $variant,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// What its ids start with.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// Why it matters.
            pub const fn why(self) -> &'static str {
                match self { $(Self::$variant => $why),* }
            }
        }
    };
}

kinds! {
    Standby "standby"
        "Nothing can be installed or written on a standby."
    Server "server"
        "Clients are sent to [server]; what mirrors their writes is installed where [control] leads."
    Table "table"
        "A migration needs both of its tables."
    Declaration "declaration"
        "No SQL can be made from a declaration that does not fit the tables."
    Key "key"
        "A source row without a key pairs with no shadow row."
    KeyType "key type"
        "Keys are compared by the operators of pg_catalog and passed in arrays; other types would be compared as something else."
    Unique "unique"
        "A write finds its shadow row, and ON CONFLICT its target, by a unique index over exactly the key."
    KeyOrder "key order"
        "Backfill and verify walk the tables in the order of the key; without an index in that order every chunk reads the whole table."
    Column "column"
        "A mirrored write cannot fill the column, so every key would stay dirty."
    ExtraColumn "extra column"
        "No source column decides what it holds: its default fills it, and verify does not compare it."
    Mapping "mapping"
        "One source row must give one shadow row whoever maps it and whenever, or verify finds differences for ever."
    Settings "settings"
        "pgsegue maps rows under settings of its own; whoever works the expression out under others gets something else."
    Reverse "reverse"
        "Reads of the old shape are answered from the shadow by it."
    NoWayBack "no way back"
        "Reads in the old shape cannot be answered from the shadow, so the source goes on to serve all of them."
    WayBack "way back"
        "A read that the shadow serves would show other values than the source has."
    MutableWayBack "mutable way back"
        "The source stores a value; what is worked out in the client's session may be another one in every session."
    Lossy "lossy"
        "What the cast drops is nowhere in the shadow, and gone when the source goes."
    Rows "rows"
        "A row that the shadow refuses cannot be mirrored: its key stays dirty, and while a key is dirty the shadow serves nobody."
    Sampled "sampled"
        "Rows that were not looked at may be refused by the shadow later."
    Constraint "constraint"
        "It is checked at COMMIT, where it would fail the client's transaction."
    ForeignKey "foreign key"
        "What follows a foreign key happens inside the server: not mirrored on the source's side, not wanted on the shadow's."
    Trigger "trigger"
        "What a trigger writes is written inside the server, after the row has been mirrored or instead of it."
    Rule "rule"
        "A rule makes another statement of a write than the one that was mirrored."
    View "view"
        "A write through a view reaches the source under another name."
    Function "function"
        "A write inside a function is not mirrored; a call that is seen is followed by a full verify."
    Reads "reads"
        "Reads inside functions and views stay on the source whatever the levers say: they show nothing of the shadow in a canary."
    Child "child"
        "What holds rows of a table counts as the table: its rows come and go with it."
    Parent "parent"
        "A write by the name of the parent reaches the table unseen."
    Unlogged "unlogged"
        "After a crash of the server the table is empty, and nothing is on record about it."
    RowSecurity "row security"
        "A row that a policy hides from the control role would be deleted from the shadow; one that it hides from its writer cannot be mirrored."
    Policies "policies"
        "Who reads from the shadow sees what its policies let through, not what the source's do."
    Privileges "privileges"
        "A mirrored write reads the key of what it wrote, and a read on the shadow needs SELECT there, both as the client's own role."
    ControlRole "control role"
        "All functions and copies run as the role of [control]."
    LockBudget "lock budget"
        "A mirrored write that waits longer than deadlock_timeout makes the client the victim of a deadlock with pgsegue."
    Publication "publication"
        "Subscribers of the source get nothing of what is written to the shadow, or get everything twice."
    ReplicaIdentity "replica identity"
        "Postgres refuses updates and deletes of a published table without a replica identity."
    Subscription "subscription"
        "A subscription writes the source inside the server, so nothing of it is mirrored."
    Slot "slot"
        "WAL is kept for a slot that nobody reads until the disk is full; a backfill writes much WAL."
    Replicas "replicas"
        "A backfill is replayed by every standby and decoded for every logical slot; the faster it goes, the further they lag."
    Disk "disk"
        "The shadow, its indexes and the WAL of the backfill need room beside the source."
    Size "size"
        "It tells how long the backfill will take."
    Transactions "transactions"
        "The start waits for every transaction that has written the source before, and the old rows that one can still see are kept."
    Accepted "accepted"
        "A line that accepts nothing hides the finding that it was written for when it comes back."
}
