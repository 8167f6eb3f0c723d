import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { approve, both, eager, gate, gatewayOf, insertHold, newRun, request } from '../../test/support/approval.ts'
import { DatabaseShards, home, localTenant, scratch, tenant, treasury } from '../../test/support/database-shards.ts'
import { ShiftedClock } from '../../test/support/shifted-clock.ts'
import { present } from '../base/assert.ts'
import { systemClock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Epoch, ShardName, TransactionId } from '../directory/topology.ts'
import { hlcFromWallMs } from '../hlc/hlc.ts'
import { accepted } from '../postgres/statement.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import { acceptClock, listAcceptances } from './clock-acceptance.ts'
import type { AcceptedDecision } from './clock-acceptance-store.ts'
import * as store from './clock-acceptance-store.ts'
import { explainInDoubt } from './in-doubt-explanation.ts'
import { Resolver } from './resolver.ts'
import { toHoldfastError } from './sql-errors.ts'
import { transact } from './transaction.ts'

/** Both walls of a home that jump between vote and stamp: what was decided so is for a person, who accepts it. */

const hourMs = 3_600_000
const by = { actor: 'ops@globex.example', reason: 'ticket 4711: NTP of eu-west was an hour ahead' }

let shards: DatabaseShards

beforeEach(async () => {
  shards = await DatabaseShards.open()
})

afterEach(() => shards.close())

/** The wall of one shard's server, so far off. */
async function setWall(shard: ShardName, offMs: number): Promise<void> {
  await shards.rows(
    shard,
    `create or replace function holdfast.wall_hlc() returns bigint language sql volatile
     as $$ select (trunc(extract(epoch from clock_timestamp()) * 1000)::bigint + ${offMs}) << 16 $$`,
  )
}

async function clockOf(shard: ShardName): Promise<bigint> {
  const [row] = await shards.rows<{ clock: string }>(shard, 'select last_value::text as clock from holdfast.hlc')
  return BigInt(present(row, 'a row').clock)
}

/** The supervisor's part: the administrator of the shard writes it down. */
const accept = async (decision: AcceptedDecision) => {
  const witness = hlcFromWallMs(systemClock.wallMs())
  const [outcome] = await shards.admin(treasury).flight([store.acceptClock(decision, by, 1 as Epoch, witness)])
  accepted(present(outcome, 'the acceptance'))
}

/** With the code that its gateway hears. */
const acceptOrTell = (decision: AcceptedDecision) =>
  accept(decision).catch((error: unknown) => {
    throw toHoldfastError(error, { shard: treasury, transactionId: decision.transactionId })
  })

const acceptAt = async (shard: ShardName, does: (decision: AcceptedDecision) => Promise<unknown> = acceptOrTell) =>
  acceptClock(await gatewayOf(shards), shard, by, does)

/** Whose action it is, and where it is decided. */
const atHome = { at: home, tenant, act: approve }
const atAnotherHome: typeof atHome = {
  at: scratch,
  tenant: localTenant,
  act: (run) => async (tx) => {
    await tx.query('scratch', 'insert into notes values ($1, $2)', [localTenant, run])
    tx.batch('treasury', [[insertHold, [localTenant, run]]])
  },
}

/**
 * Decided while server and gateway of home are an hour ahead; the gateway dies before it settles the branch. `meanwhile` takes
 * place between the two: behind the prepare, before that.
 */
async function decidedAhead(run: string, meanwhile = async () => {}, { at, tenant, act } = atHome) {
  const clock = new ShiftedClock()
  const settling = gate('global decision row')
  const { environment, kill } = await shards.gateway({
    clock,
    onStep: async (step, where) => {
      if (step === 'global prepare acknowledged') {
        await meanwhile()
        clock.shiftMs = hourMs
        await setWall(at, hourMs)
        // As the keeper of the clock does within milliseconds.
        await shards.rows(at, 'select holdfast.tick($1)', [hlcFromWallMs(clock.wallMs())])
      }
      await settling.onStep(step, where)
    },
  })
  const decided = await transact(environment, request(run, { tenant }), act(run))
  await settling.reached
  await kill()
  return decided
}

const rowsKept = 'select transaction_id from holdfast.clock_acceptance'

describe('a decision of a home whose two walls jumped ahead between vote and stamp', () => {
  test('C8: is left to a person, who accepts it once the walls are right: it is settled, and who did why is kept', async () => {
    const run = newRun()
    const { transactionId, commitTimestamp } = await decidedAhead(run)
    const before = await clockOf(treasury)
    const resolver = new Resolver({ environment: await gatewayOf(shards), limits: eager })
    expect(await resolver.resolveOnce(treasury)).toMatchObject([{ resolution: { kind: 'needs person' } }])

    // As long as the wall of home is ahead, it may be the others that are behind.
    const explain = async () =>
      (await explainInDoubt(await gatewayOf(shards), eager)).map(({ verdict, why }) => [verdict, why])
    const agreeing = expect.stringMatching(
      /The wall clock of eu-west\/payroll agrees with it: set the wrong ones right/,
    ) as string
    expect(await explain()).toEqual([['needs a person', agreeing]])
    await expect(acceptAt(treasury)).rejects.toMatchObject({ code: 'clock_acceptance_refused', message: agreeing })
    expect(await clockOf(treasury)).toBe(before)

    await setWall(home, 0)
    const out =
      /\d{7} ms ahead of every wall clock at us-east\/treasury, which adopts up to 1500 ms.* --accept-clock us-east/
    expect(await explain()).toEqual([['needs a person', expect.stringMatching(out)]])
    const told = await acceptAt(treasury)
    expect(told).toMatchObject([
      { transactionId, home, homeEpoch: 1, commitTimestamp, clockBefore: before, maxClockOffsetMs: 500, ...by },
    ])
    expect([...present(told[0], 'a row').walls.keys()].toSorted()).toEqual(['eu-west/payroll', 'eu-west/scratch'])
    expect(await explain()).toEqual([['commit', expect.any(String)]])
    expect(await resolver.resolveOnce(treasury)).toMatchObject([{ resolution: { kind: 'settled' } }])
    expect(await both(shards, run)).toEqual([1, 1])
    expect(await clockOf(treasury)).toBeGreaterThanOrEqual(commitTimestamp)

    // Again it tells what stands, and of another reason that there is nothing to do.
    expect(await acceptAt(treasury)).toEqual(told)
    await expect(
      acceptClock(await gatewayOf(shards), treasury, { ...by, reason: 'another' }, accept),
    ).rejects.toMatchObject({
      code: 'clock_acceptance_refused',
      message: expect.stringMatching(/refuses no decision/) as string,
    })
    expect(await listAcceptances(await gatewayOf(shards), treasury)).toEqual(told)
  })

  test('C8: what is accepted outlives whoever accepted it: who comes next settles it, and told twice it is one row', async () => {
    const run = newRun()
    const { transactionId } = await decidedAhead(run)
    await setWall(home, 0)
    const dead = new Error('it died')
    const dies = async (decision: AcceptedDecision) => {
      await accept(decision)
      await accept(decision)
      throw dead
    }
    await expect(acceptAt(treasury, dies)).rejects.toBe(dead)
    expect(await shards.rows(treasury, rowsKept)).toEqual([{ transaction_id: transactionId }])
    // A crash of its server loses a move that was not logged yet.
    const resolver = new Resolver({ environment: await gatewayOf(shards), limits: eager })
    expect(await resolver.resolveOnce(treasury)).toMatchObject([{ resolution: { kind: 'settled' } }])
    expect(await both(shards, run)).toEqual([1, 1])
    expect(await acceptAt(treasury)).toMatchObject([{ transactionId }])
  })

  test('C8: a shard that falls silent behind an acceptance is unavailable: it may be asked again', async () => {
    await decidedAhead(newRun())
    await setWall(home, 0)
    const { primary } = shards.shard(treasury)
    const silences = async (decision: AcceptedDecision) => {
      await accept(decision)
      shards.replaceShard(treasury, { primary: { ...primary, port: 1 } })
    }
    await expect(acceptAt(treasury, silences)).rejects.toMatchObject({
      code: 'node_unavailable',
      message: expect.stringMatching(/^us-east\/treasury does not tell which clocks were accepted there/) as string,
    })
    shards.replaceShard(treasury, { primary })
    expect(await acceptAt(treasury)).toHaveLength(1)
  })

  /** Two branches, of which the one that was prepared first was decided last. */
  async function decidedCrosswise() {
    const runs = [newRun(), newRun()] as const
    const earlier: { transactionId: TransactionId }[] = []
    const later = await decidedAhead(runs[0], async () => void earlier.push(await decidedAhead(runs[1])))
    await setWall(home, 0)
    return { runs, later: later.transactionId, earlier: present(earlier[0], 'decided').transactionId }
  }

  const settleAll = async (runs: readonly string[]) => {
    const resolver = new Resolver({ environment: await gatewayOf(shards), limits: eager })
    await resolver.resolveOnce(treasury)
    for (const run of runs) expect(await both(shards, run)).toEqual([1, 1])
  }

  test('C8: of several the earliest is accepted first, whichever was prepared first: each has its row', async () => {
    const { runs, later, earlier } = await decidedCrosswise()
    const asked: TransactionId[] = []
    const told = await acceptAt(treasury, (decision) => {
      asked.push(decision.transactionId)
      return acceptOrTell(decision)
    })
    expect(asked).toEqual([earlier, later])
    expect(told.map(({ transactionId }) => transactionId)).toEqual([later, earlier])
    await settleAll(runs)
  })

  test('C8: one that another acceptance covers meanwhile is passed over', async () => {
    const { runs, later, earlier } = await decidedCrosswise()
    const decisions: AcceptedDecision[] = []
    await acceptAt(treasury, async (decision) => void decisions.push(decision))
    expect(decisions.map(({ transactionId }) => transactionId)).toEqual([earlier, later])
    const covers = async (decision: AcceptedDecision) => {
      if (decision.transactionId === earlier) await accept(present(decisions[1], 'the later'))
      await acceptOrTell(decision)
    }
    const [told] = await acceptAt(treasury, covers)
    expect(told).toMatchObject({ transactionId: later })
    await settleAll(runs)
  })

  test('C8: one whose branch another settles meanwhile is passed over', async () => {
    const { runs, later } = await decidedCrosswise()
    const settles = async (decision: AcceptedDecision) => {
      await setWall(treasury, hourMs)
      if (decision.transactionId !== later) await settleAll(runs)
      await setWall(treasury, 0)
      await acceptOrTell(decision)
    }
    expect(await acceptAt(treasury, settles)).toEqual([])
  })

  test('C8: what is still refused and not accepted is an error', async () => {
    const { later } = await decidedCrosswise()
    const refuses = async ({ transactionId }: AcceptedDecision) => {
      if (transactionId === later) throw new HoldfastError('clock_acceptance_refused', 'a wall agrees')
    }
    await expect(acceptAt(treasury, refuses)).rejects.toMatchObject({ message: 'a wall agrees' })
  })

  test('C8: a record that its home did not commit so is not accepted', async () => {
    const run = newRun()
    const { transactionId } = await decidedAhead(run)
    await setWall(home, 0)
    await shards.rows(home, 'update holdfast.transaction_record set commit_timestamp = commit_timestamp + 1')
    await expect(acceptAt(treasury)).rejects.toMatchObject({
      code: 'clock_acceptance_refused',
      message: expect.stringMatching(
        /The commit log of eu-west\/payroll has it at .*: put the record right there/,
      ) as string,
    })
    expect(await shards.rows(treasury, rowsKept)).toEqual([])
    await shards.rows(home, 'update holdfast.transaction_record set commit_timestamp = commit_timestamp - 1')
    expect(await acceptAt(treasury)).toMatchObject([{ transactionId }])
  })

  const moveRecord = (transactionId: TransactionId, by: number, at = home) =>
    shards.rows(
      at,
      'update holdfast.transaction_record set commit_timestamp = commit_timestamp + $2 where transaction_id = $1',
      [transactionId, by],
    )

  test('C8: nothing is accepted while a home does not tell, or is fenced: it may have one with another way out', async () => {
    await shards.rows(scratch, `update holdfast.shard set durability = 'quorum'`)
    shards.replaceShard(scratch, { durability: 'quorum' })
    const earlier = await decidedAhead(newRun(), undefined, atAnotherHome)
    await decidedAhead(newRun())
    await setWall(home, 0)
    await setWall(scratch, 0)
    await moveRecord(earlier.transactionId, -1, scratch)
    const { primary } = shards.shard(scratch)

    shards.replaceShard(scratch, { primary: { ...primary, port: 1 } })
    await expect(acceptAt(treasury)).rejects.toMatchObject({ code: 'node_unavailable' })
    expect(await shards.rows(treasury, rowsKept)).toEqual([])
    shards.replaceShard(scratch, { primary, state: 'fenced' })
    await expect(acceptAt(treasury)).rejects.toMatchObject({
      code: 'node_unavailable',
      message: expect.stringMatching(/home eu-west\/scratch is fenced/) as string,
    })
    expect(await shards.rows(treasury, rowsKept)).toEqual([])
    shards.replaceShard(scratch, { state: 'open' })
    await expect(acceptAt(treasury)).rejects.toMatchObject({
      code: 'clock_acceptance_refused',
      message: expect.stringMatching(/^eu-west\/scratch has .*: put the record right there/) as string,
    })
  })

  test('C8: nothing is accepted above one with another way out, which the clock would pass; below it is', async () => {
    const { later, earlier } = await decidedCrosswise()
    const out = expect.stringMatching(/^eu-west\/payroll has .*: put the record right there/) as string
    await moveRecord(earlier, -1)
    await expect(acceptAt(treasury)).rejects.toMatchObject({ code: 'clock_acceptance_refused', message: out })
    expect(await shards.rows(treasury, rowsKept)).toEqual([])
    await moveRecord(earlier, 1)
    await moveRecord(later, 1)
    expect(await acceptAt(treasury)).toMatchObject([{ transactionId: earlier }])
    expect(await shards.rows(treasury, rowsKept)).toEqual([{ transaction_id: earlier }])
  })

  test('C8: the shard itself takes no acceptance that it does not need, of a branch that it does not have, or from a gateway', async () => {
    const { transactionId } = await decidedAhead(newRun())
    await setWall(home, 0)
    let decision: AcceptedDecision | undefined
    await expect(acceptAt(treasury, async (one) => void (decision = one))).resolves.toEqual([])
    const asked = present(decision, 'it was asked for')
    const refused = (change: Partial<AcceptedDecision>, state: string) =>
      expect(accept({ ...asked, ...change })).rejects.toMatchObject({ sqlState: state })
    await refused({ gid: 'hf_other' }, sqlState.clockNotRefused)
    await refused({ commitTimestamp: hlcFromWallMs(systemClock.wallMs()) }, sqlState.clockNotRefused)
    await refused({ walls: new Map([[home, asked.commitTimestamp]]) }, sqlState.clockNotRefused)
    const environment = await gatewayOf(shards)
    const { name, primary } = shards.shard(treasury)
    const statement = store.acceptClock(asked, by, 1 as Epoch, hlcFromWallMs(systemClock.wallMs()))
    const [outcome] = await environment.pools.flight(environment.targetOf(primary), [statement], 5_000)
    expect(outcome).toMatchObject({ error: { sqlState: sqlState.insufficientPrivilege } })
    await accept(asked)
    await refused({ commitTimestamp: hlcFromWallMs(systemClock.wallMs() + 2 * hourMs) }, sqlState.decisionContradicted)
    for (const change of ['delete from', 'truncate', `update`]) {
      const text = `${change} holdfast.clock_acceptance${change === 'update' ? ` set reason = 'none'` : ''}`
      await expect(shards.rows(name, text)).rejects.toMatchObject({ sqlState: sqlState.insufficientPrivilege })
    }
    expect(await shards.rows(treasury, rowsKept)).toEqual([{ transaction_id: transactionId }])
  })
})
