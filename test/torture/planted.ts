import type { TestFleet } from '../support/fleet.ts'
import type { ReadAsked } from './client.ts'
import { plantedInReads } from './planted-reads.ts'
import { shardOf } from './stand.ts'

/**
 * Bugs, each of which torture must catch: faulty variants of what the protocols rest on, put in place of the true ones on
 * the servers of a fleet. Nothing in the core knows of them. Each names the cell that has to catch it, and as what.
 */
export interface Planted {
  readonly bug: string
  readonly workload: string
  readonly fault: string
  readonly caughtAs: readonly string[]
  /** On servers. */
  readonly variants?: readonly Variant[]
  /** In gateways: what each call is made with instead. */
  readonly call?: (request: ReadAsked) => ReadAsked
}

/** A function or a view of the schema, with text of it replaced, as the server tells it; or statements. */
type Variant =
  | { readonly function: string; readonly replace: string; readonly by: string }
  | { readonly view: string; readonly replace: string; readonly by: string }
  | { readonly plant: string; readonly remove: string }

export const planted: readonly Planted[] = [
  {
    bug: 'closing without the own xid (HZ-C1)',
    workload: 'closed',
    fault: 'none',
    caughtAs: ['closed too early'],
    variants: [
      {
        function: 'publish_closed',
        // What was drawn up to now, whoever is still under way with it.
        replace: 'greatest(c.closed_timestamp, p_timestamp)',
        by: 'greatest(c.closed_timestamp, (select s.last_value from holdfast.hlc s))',
      },
    ],
  },
  {
    bug: 'the warning of a cancelled wait is not heard (HZ-S1)',
    workload: 'set',
    fault: 'lose cancelled waits',
    caughtAs: ['lost', 'outcome', 'half'],
    variants: [
      {
        function: 'wait_for_followers',
        replace: `return set_config('synchronous_commit'`,
        by: `perform set_config('client_min_messages', 'error', true); return set_config('synchronous_commit'`,
      },
    ],
  },
  {
    bug: 'no barrier before a record counts (HZ-X1)',
    workload: 'set',
    fault: 'lose cancelled waits',
    caughtAs: ['lost', 'outcome', 'half'],
    variants: [
      {
        function: 'barrier',
        replace: `perform pg_logical_emit_message(true, 'holdfast.barrier', '')`,
        by: 'null',
      },
      // Who sends a barrier looks at the followers as well.
      { function: 'replicated_through', replace: `return coalesce(v_lsn, '0/0')`, by: `return 'FFFFFFFF/FFFFFFFF'` },
    ],
  },
  {
    bug: 'reply before commit',
    workload: 'set',
    fault: 'lose primary',
    caughtAs: ['lost', 'outcome', 'half'],
    variants: [
      {
        function: 'stamp',
        replace: 'holdfast.wait_for_followers(a.shard, a.durability)',
        by: `set_config('synchronous_commit', 'off', true)`,
      },
      {
        function: 'prepare_branch',
        replace: 'perform holdfast.wait_for_followers(v_here.shard, v_here.durability)',
        by: `perform set_config('synchronous_commit', 'off', true)`,
      },
    ],
  },
  {
    bug: 'stamped before the last lock wait (HZ-C5)',
    workload: 'list-append',
    fault: 'none',
    caughtAs: ['timestamp order'],
    variants: [
      {
        // Part of every opening at home.
        function: 'hold_home',
        replace: 'select ',
        by: `select pg_current_xact_id() is not null
          and set_config('holdfast.early', nextval('holdfast.hlc')::text, true) <> '' and `,
      },
      { function: 'hold_home', replace: 'LANGUAGE sql', by: 'LANGUAGE sql SECURITY DEFINER' },
      // Over several shards it would be refused for being so early.
      { function: 'stamp', replace: 'if v_stamp <= p_after then', by: 'if false then' },
      {
        function: 'draw',
        replace: 'v_xid := pg_current_xact_id();',
        by: `if current_setting('holdfast.early', true) <> '' then
            return current_setting('holdfast.early')::bigint;
          end if;
          v_xid := pg_current_xact_id();`,
      },
    ],
  },
  {
    bug: 'rows that the redo stream does not have (HZ-R1)',
    workload: 'bank',
    fault: 'none',
    caughtAs: ['replay'],
    variants: [
      {
        plant: 'alter publication holdfast_redo drop table left_accounts',
        remove: 'alter publication holdfast_redo add table left_accounts',
      },
    ],
  },
  {
    bug: 'the tenant filter is dropped',
    workload: 'canary',
    fault: 'none',
    caughtAs: ['foreign row'],
    variants: [
      {
        plant: 'alter policy holdfast_read on left_canaries using (true)',
        remove: `alter policy holdfast_read on left_canaries using (tenant = current_setting('holdfast.tenant', true))`,
      },
    ],
  },
  {
    bug: 'the idempotency key is ignored',
    workload: 'payroll',
    fault: 'none',
    caughtAs: ['not replayed'],
    variants: [
      { function: 'claim', replace: 'if found then', by: 'if true then' },
      { function: 'stamp', replace: 'i.key = p_key and i.transaction_id = p_transaction', by: 'i.key = p_key' },
    ],
  },
  {
    bug: 'a stale placement is accepted',
    workload: 'canary',
    fault: 'none',
    caughtAs: ['not refused'],
    variants: [
      { function: 'stamp', replace: ' and a.placements @> p_placements', by: '' },
      { function: 'stamp', replace: `and a.writable @> current_setting('holdfast.placements', true)::jsonb`, by: '' },
    ],
  },
  ...plantedInReads,
]

/** Where the others of the list are caught: by a model, or by a test of the mechanism. */
export const caughtElsewhere: readonly { readonly bug: string; readonly file: string; readonly test: string }[] = [
  {
    bug: 'early collection (HZ-X2)',
    file: 'test/sim/commit-model.test.ts',
    test: 'a record collected as soon as its branches are settled here (HZ-X2)',
  },
  {
    bug: 'token checked by LSN inside the snapshot (HZ-T1)',
    file: 'test/sim/session-plants.ts',
    test: 'HZ-T1: replay position read inside the snapshot',
  },
  {
    bug: 'history checked last (HZ-T3)',
    file: 'test/sim/session-plants.ts',
    test: 'HZ-T3: the history is checked last',
  },
  {
    bug: 'inclusive target (HZ-A3)',
    file: 'test/cluster/archive-restore.test.ts',
    test: 'HZ-A3: stops just before the first commit to be left out, and with an inclusive stop it would not',
  },
  {
    bug: 'no gap audit (HZ-A1, HZ-A2)',
    file: 'src/archive/wal-audit.test.ts',
    test: 'HZ-A1: ends before a missing segment, and names it, although later ones are there',
  },
  {
    bug: 'redo without de-duplication (HZ-R3)',
    file: 'src/recovery/redo.pg.test.ts',
    test: 'HZ-R3: a transaction that was restored physically is not redone, whatever its position',
  },
  {
    bug: 'outbox marked before sending',
    file: 'src/transaction/outbox/outbox.pg.test.ts',
    test: 'E2: a crash before the request left loses nothing',
  },
]

/** Puts the variants in place on every shard. What comes back puts the true ones in place again, on whoever is primary. */
export async function plant(fleet: TestFleet, { variants = [] }: Planted): Promise<() => Promise<void>> {
  const shards = Object.values(shardOf)
  const genuine: string[] = []
  for (const variant of variants) {
    if ('plant' in variant) {
      genuine.unshift(variant.remove)
      for (const shard of shards) await fleet.ask(shard, variant.plant)
      continue
    }
    const name = 'function' in variant ? variant.function : variant.view
    const text = await ('function' in variant ? functionText(fleet, name) : viewText(fleet, name))
    // Where the text has changed, the bug is none any more, and would seem to be missed or caught by chance.
    if (!text.includes(variant.replace)) throw new Error(`${name} has no text ${variant.replace}`)
    genuine.unshift(text)
    for (const shard of shards)
      await fleet.ask(
        shard,
        text.replace(variant.replace, () => variant.by),
      )
  }
  return async () => {
    for (const text of genuine) for (const shard of shards) await fleet.ask(shard, text)
  }
}

async function functionText(fleet: TestFleet, name: string): Promise<string> {
  const [row] = await fleet.ask<{ text: string }>(
    shardOf.left,
    `select pg_get_functiondef(p.oid) as text from pg_proc p
     where p.pronamespace = 'holdfast'::regnamespace and p.proname = $1`,
    [name],
  )
  if (row === undefined) throw new Error(`there is no function ${name}`)
  return row.text
}

async function viewText(fleet: TestFleet, name: string): Promise<string> {
  const [row] = await fleet.ask<{ text: string }>(
    shardOf.left,
    `select 'create or replace view holdfast.' || c.relname || ' as ' || pg_get_viewdef(c.oid) as text from pg_class c
     where c.relnamespace = 'holdfast'::regnamespace and c.relname = $1`,
    [name],
  )
  if (row === undefined) throw new Error(`there is no view ${name}`)
  return row.text
}
