import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { FreshDatabase } from '../../test/support/database.ts'
import { freshDatabase } from '../../test/support/database.ts'
import { assert, present } from '../base/assert.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcFromWallMs, hlcZero, toHlc } from '../hlc/hlc.ts'
import type { ClockCommand, ClockRefusal, ShardClock, Walls } from '../hlc/shard-clock.ts'
import { stepClock } from '../hlc/shard-clock.ts'
import type { Statement, StatementOutcome } from '../postgres/statement.ts'
import { Connection } from '../postgres/connection.ts'
import { accepted } from '../postgres/statement.ts'
import { sqlState } from '../postgres/sqlstate.ts'

/** Holds the functions of the clock to what `src/hlc/shard-clock.ts` says of them, on a server whose wall a test sets. */

const offsetMs = 500
const startMs = Date.UTC(2026, 3, 2)

let database: FreshDatabase
let admin: Connection

beforeAll(async () => {
  database = await freshDatabase()
  admin = await Connection.connect(database.target(), 5_000)
  await admin.script(`
    call holdfast.found_shard('test', 'eu-west/payroll', 'local', gen_random_uuid(), ${offsetMs});
    alter table holdfast.clock_acceptance disable trigger user;
    create table public.wall (hlc bigint not null);
    insert into public.wall values (0);
    grant select on public.wall to public;
    create or replace function holdfast.wall_hlc() returns bigint language sql volatile
    as $$ select w.hlc from public.wall w $$`)
})

afterAll(async () => {
  admin.release()
  await database.drop()
})

/** Up to where a person has let the clock be moved. */
const setAccepted = (accepted: Hlc): Statement => ({
  text: `insert into holdfast.clock_acceptance (transaction_id, home, home_epoch, epoch, clock_before, commit_timestamp, wall, witness,
           walls, max_clock_offset_ms, actor, reason)
         values ('019d4d4e-0000-7000-8000-000000000000', 'home', 1, 1, -9e18, $1, -9e18, -9e18, '{}', 500, 'test', 'test')
         on conflict (transaction_id) do update set commit_timestamp = excluded.commit_timestamp`,
  values: [accepted],
})
const setWall = (wall: Hlc): Statement => ({ text: 'update public.wall set hlc = $1', values: [wall] })
const readState: Statement = {
  text: 'select c.last_value::text as clock, f.last_value::text as floor from holdfast.hlc c, holdfast.floor f',
}

function callOf(command: ClockCommand, { witness }: Walls): Statement {
  switch (command.kind) {
    case 'draw':
      return { text: 'select holdfast.draw()' }
    case 'tick':
      return { text: 'select holdfast.tick($1)', values: [witness] }
    case 'observe':
      return { text: 'select holdfast.observe($1, $2)', values: [command.timestamp, witness] }
    case 'observe decided':
      return { text: 'select holdfast.observe_decided($1, $2)', values: [command.timestamp, witness] }
    case 'raise floor':
      return { text: 'select holdfast.raise_floor($1)', values: [command.to] }
  }
}

async function begin({ clock, floor }: ShardClock): Promise<void> {
  await admin.query(`select setval('holdfast.hlc', $1), setval('holdfast.floor', $2)`, [clock, floor])
}

async function run(
  command: ClockCommand,
  walls: Walls,
): Promise<{ after: ShardClock; refused: ClockRefusal | undefined }> {
  const allowed = command.kind === 'observe decided' ? command.accepted : undefined
  const outcomes = await admin.flight([
    setAccepted(allowed ?? hlcZero),
    setWall(walls.server),
    callOf(command, walls),
    readState,
  ])
  const [, , called, state] = outcomes.map((outcome) => present(outcome, 'an outcome a statement'))
  const [row] = accepted(present(state, 'the state')).rows as { clock: string; floor: string }[]
  const { clock, floor } = present(row, 'a row')
  return {
    after: { clock: toHlc(BigInt(clock)), floor: toHlc(BigInt(floor)) },
    refused: refusalOf(present(called, 'the call')),
  }
}

function refusalOf(outcome: StatementOutcome): ClockRefusal | undefined {
  if (outcome.ok) return undefined
  if (outcome.error.sqlState === sqlState.clockOffsetExceeded) return 'clock offset exceeded'
  assert(outcome.error.sqlState === sqlState.clockRegressed, outcome.error.message)
  return 'clock regressed'
}

/** Near each other, so that every case of every rule is met, and far off. */
const wallMs = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: startMs - 2 * offsetMs, max: startMs + 2 * offsetMs }) },
  { weight: 1, arbitrary: fc.integer({ min: startMs - 86_400_000_000, max: startMs + 86_400_000_000 }) },
)
const timestamp = fc.tuple(wallMs, fc.integer({ min: 0, max: 0xffff })).map(([ms, count]) => {
  return toHlc(hlcFromWallMs(ms) + BigInt(count))
})
const walls = fc.record({ server: wallMs.map(hlcFromWallMs), witness: wallMs.map(hlcFromWallMs) })
/** Just above where the clock is: some that only drawing reaches, some beyond. */
const near = fc.integer({ min: 1, max: 6_000 })

const command = fc.oneof(
  fc.constant({ kind: 'draw' } as const),
  fc.constant({ kind: 'tick' } as const),
  timestamp.map((at) => ({ kind: 'observe', timestamp: at }) as const),
  near.map((ticks) => ({ kind: 'observe near', ticks }) as const),
  timestamp.map((at) => ({ kind: 'observe decided', timestamp: at }) as const),
  fc
    .tuple(timestamp, timestamp)
    .map(([at, accepted]) => ({ kind: 'observe decided', timestamp: at, accepted }) as const),
  timestamp.map((to) => ({ kind: 'raise floor', to }) as const),
)

test('C2: C3: C6: C8: the functions do what the model says, whatever the walls do', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(command, walls), { minLength: 1, maxLength: 25 }), async (played) => {
      let shard: ShardClock = { clock: hlcFromWallMs(startMs), floor: hlcFromWallMs(startMs - 1) }
      await begin(shard)
      for (const [drawn, at] of played) {
        const does: ClockCommand =
          drawn.kind === 'observe near'
            ? { kind: 'observe', timestamp: toHlc(shard.clock + BigInt(drawn.ticks)) }
            : drawn
        const said = stepClock(shard, does, at, offsetMs)
        expect(await run(does, at)).toEqual(said)
        shard = said.after
      }
    }),
    { numRuns: 80 },
  )
})
