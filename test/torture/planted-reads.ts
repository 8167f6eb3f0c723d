import type { Planted } from './planted.ts'

/** Bugs in the proof of freshness and in what carries it, each of which the workload `sessions` must catch. */
const late = { workload: 'sessions', fault: 'hold follower back' } as const
const calm = { workload: 'sessions', fault: 'none' } as const

export const plantedInReads: readonly Planted[] = [
  {
    ...late,
    bug: 'transactions of the token count as visible, unseen (S6, S7)',
    caughtAs: ['read your writes', 'monotonic reads'],
    variants: [{ function: 'shown_of', replace: 'if exists', by: 'if true or exists' }],
  },
  {
    ...late,
    bug: 'what was received counts as replayed (S6)',
    caughtAs: ['read your writes', 'monotonic reads'],
    variants: [{ view: 'evidence', replace: 'THEN pg_last_wal_replay_lsn()', by: 'THEN pg_last_wal_receive_lsn()' }],
  },
  {
    ...late,
    bug: 'a read leaves no position (R6)',
    caughtAs: ['monotonic reads'],
    variants: [
      {
        view: 'evidence',
        replace: 'GREATEST(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())',
        by: `'0/0'::pg_lsn`,
      },
    ],
  },
  {
    ...calm,
    bug: 'a prepared branch counts as settled (HZ-X3)',
    caughtAs: ['read your writes', 'monotonic reads'],
    variants: [
      {
        function: 'shown_of',
        replace: 'or exists (select from holdfast.branch b where b.transaction_id = v_id)',
        by: `or exists (select from holdfast.branch b where b.transaction_id = v_id)
          or exists (select from pg_prepared_xacts p where p.gid like '%' || v_id || '%')`,
      },
    ],
  },
  {
    ...late,
    bug: 'causal does not look at the closed timestamp (S10)',
    caughtAs: ['causal', 'closed too early'],
    variants: [{ view: 'evidence', replace: 'c.closed_timestamp', by: '(1::bigint << 62) as closed_timestamp' }],
  },
  {
    ...late,
    bug: 'a join keeps the first of its tokens (S2, S11)',
    caughtAs: ['read your writes', 'monotonic reads'],
    call: ({ session, ...request }) => ({ ...request, session: session?.split(', ')[0] }),
  },
  {
    ...late,
    bug: 'stale is as late as it likes',
    caughtAs: ['stale'],
    call: (request) => (request.level === 'stale' ? { ...request, maxStaleMs: 3_600_000 } : request),
  },
  {
    ...late,
    bug: 'strong is answered by a follower (R7)',
    caughtAs: ['strong'],
    call: (request) => (request.level === 'strong' ? { ...request, level: 'session' } : request),
  },
  {
    ...calm,
    bug: 'strong does not settle what was decided (R7)',
    caughtAs: ['strong'],
    // The primary answers, with what its session has seen; a branch of another's is acknowledged before it is settled.
    call: (request) => (request.level === 'strong' ? { ...request, level: 'primary' } : request),
    // By itself no bug: it takes as long as over a longer link, which strong reads wait for.
    variants: [
      {
        function: 'record_decision',
        replace: `perform set_config('synchronous_commit'`,
        by: `perform pg_sleep(0.5); perform set_config('synchronous_commit'`,
      },
    ],
  },
  {
    ...calm,
    bug: 'a snapshot is not compared over its shards',
    caughtAs: ['fractured'],
    variants: [
      { function: 'visible_global_transactions', replace: 'cardinality(l.participants) > 0', by: 'false' },
      { function: 'visible_global_transactions', replace: `d.outcome = 'COMMITTED'`, by: 'false' },
    ],
  },
  {
    ...calm,
    bug: 'a stamp goes back when the wall clock does (C2, C3)',
    caughtAs: ['monotonic writes', 'writes follow reads'],
    variants: [
      {
        function: 'draw',
        replace: `v_drawn := nextval('holdfast.hlc');`,
        by: `v_drawn := nextval('holdfast.hlc') - (trunc(random() * 2000)::bigint << 16);`,
      },
      { function: 'draw', replace: 'if v_drawn <= v_floor then', by: 'if false then' },
      // Over several shards it would be refused.
      { function: 'stamp', replace: 'if v_stamp <= p_after then', by: 'if false then' },
    ],
  },
]
