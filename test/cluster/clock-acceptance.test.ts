import { afterAll, beforeAll, expect, test } from 'vitest'
import { present } from '../../src/base/assert.ts'
import { systemClock } from '../../src/base/clock.ts'
import { newTimeOrderedUuid } from '../../src/base/random.ts'
import { exitCodes } from '../../src/cli/output.ts'
import type { ShardName, TransactionId } from '../../src/directory/topology.ts'
import { attachFleet, quietRuntime } from '../../src/fleet/fleet.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { formatHlc, hlcFromWallMs } from '../../src/hlc/hlc.ts'
import { Connection } from '../../src/postgres/connection.ts'
import { formatGid } from '../../src/transaction/gid.ts'
import { CommandFleet } from '../support/command-fleet.ts'
import { eventually } from '../support/eventually.ts'

/** C8 as an operator meets it: what `resolve --dry-run` says, what `--accept-clock` does and refuses, and what is kept. */

const home = 'eu-west/payroll' as ShardName
const treasury = 'us-east/treasury' as ShardName
const hourMs = 3_600_000
const transactionId = newTimeOrderedUuid() as TransactionId
const commitTimestamp = hlcFromWallMs(systemClock.wallMs() + hourMs)
const gid = formatGid('payledger', { home, transactionId, participant: treasury })
const by = ['--actor', 'ops@globex.example', '--reason', 'ticket 4711']
const text = expect.any(String) as string

let fleet: CommandFleet
let gateway: Gateway

beforeAll(async () => {
  fleet = await CommandFleet.open()
  gateway = await attachFleet(fleet.ready.dataDir, 'us-east', { ...quietRuntime, services: false })
  await decideAhead()
})

afterAll(async () => {
  await gateway?.close()
  await fleet?.close()
})

async function asAdmin(shard: ShardName, texts: readonly string[]): Promise<void> {
  const { topology, environment, keys } = gateway.parts
  const primary = present(topology.current().shards.get(shard)?.primary, 'the shard has a primary')
  const admin = { user: 'holdfast_admin', password: keys.passwords.holdfast_admin }
  const connection = await Connection.connect({ ...environment.targetOf(primary), ...admin }, 10_000)
  try {
    for (const each of texts) await connection.query(each)
  } finally {
    connection.release()
  }
}

/** What a home whose walls were an hour ahead leaves: record, commit log, and a branch that its gateway did not settle. */
async function decideAhead(): Promise<void> {
  const business = `'globex-eu', 'payroll.approve', 'apr', 'manager@globex.example', '{}'`
  await asAdmin(treasury, [
    'begin',
    `insert into holdfast.branch (transaction_id, gid, home, home_epoch, participants, prepare_timestamp, xid, tenant, action, subject,
       actor, placements, epoch)
     values ('${transactionId}', '${gid}', '${home}', 1, '{${treasury}}', 1, pg_current_xact_id(), ${business}, 1)`,
    'set local role holdfast_gateway',
    `prepare transaction '${gid}'`,
  ])
  await asAdmin(home, [
    `with logged as (
       insert into holdfast.commit_log (transaction_id, commit_timestamp, xid, tenant, action, subject, actor, placements, epoch, participants)
       values ('${transactionId}', ${commitTimestamp}, pg_current_xact_id(), ${business}, 1, '{${treasury}}') returning *)
     insert into holdfast.transaction_record (transaction_id, outcome, commit_timestamp, participants, home_epoch)
     select transaction_id, 'COMMITTED', commit_timestamp, participants, epoch from logged`,
  ])
}

const refusedWith = (code: number, error: string) => ({ code, document: { error: { code: error, message: text } } })

/** What gateways have said of a service, each as a log line of theirs. */
const said = (service: string) =>
  fleet.up.stderr
    .split('\n')
    .filter((line) => line.startsWith('{') && line.endsWith('}'))
    .map((line) => JSON.parse(line) as { service?: string; msg: string; err?: unknown })
    .filter((line) => line.service === service)

test('HZ-C7: a branch for a person, and that it keeps timestamps open, are told of in a sentence, and no stack', async () => {
  await eventually(() => said(`settling ${gid}`).length > 0 && said(`clock of ${treasury}`).length > 0)
  const [stuck, held] = [said(`settling ${gid}`)[0], said(`clock of ${treasury}`)[0]]
  expect(stuck?.msg).toMatch(/^in doubt on us-east\/treasury for \d+ ms, home eu-west\/payroll: /)
  expect(held?.msg).toMatch(new RegExp(`^prepared transaction ${gid}, \\d+ ms old, keeps timestamps open for \\d+ ms$`))
  expect([stuck?.err, held?.err]).toEqual([undefined, undefined])
})

test("C8: a decision that is refused for its time is explained, accepted on somebody's word, settled, and kept", async () => {
  const why = expect.stringMatching(
    /ms ahead of every wall clock at us-east\/treasury.*--accept-clock us-east\/treasury/,
  ) as string
  const explained = await fleet.holdfast('resolve', '--dry-run')
  expect(explained.document).toMatchObject([{ transactionId, verdict: 'needs a person', record: 'COMMITTED', why }])

  for (const half of [[], by.slice(0, 2), [...by, '--dry-run'], ['--actor', 'ops', '--reason', ' ']]) {
    const answer = await fleet.holdfast('resolve', '--accept-clock', treasury, ...half)
    expect(answer).toMatchObject(refusedWith(exitCodes.invalid, 'argument_invalid'))
  }
  const [unneeded, unknown] = await Promise.all([
    fleet.holdfast('resolve', '--accept-clock', home, ...by),
    fleet.holdfast('resolve', '--accept-clock', 'eu-west/nothing', ...by),
  ])
  expect(unneeded).toMatchObject(refusedWith(exitCodes.conflict, 'clock_acceptance_refused'))
  expect(unknown).toMatchObject(refusedWith(exitCodes.not_found, 'unknown_shard'))

  const accepted = [
    {
      shard: treasury,
      transactionId,
      home,
      clockBefore: text,
      commitTimestamp: formatHlc(commitTimestamp),
      wall: text,
      witness: text,
      walls: { [home]: text },
      maxClockOffsetMs: 500,
      actor: 'ops@globex.example',
      reason: 'ticket 4711',
      acceptedAt: text,
    },
  ]
  const first = await fleet.holdfast('resolve', '--accept-clock', treasury, ...by)
  // A gateway's resolver may have settled it first.
  expect(first).toMatchObject({ code: exitCodes.done, document: { accepted } })
  await eventually(async () => {
    const { document } = await fleet.holdfast('txn', transactionId)
    return (document as { branches: readonly { state: string }[] }).branches.every(({ state }) => state === 'committed')
  })
  await eventually(() =>
    said(`clock of ${treasury}`).some(({ msg }) => /^timestamps close again, after \d+ ms$/.test(msg)),
  )
  const again = await fleet.holdfast('resolve', '--accept-clock', treasury, ...by)
  expect(again).toEqual({ code: exitCodes.done, document: { accepted, resolved: [] } })
  const other = await fleet.holdfast('resolve', '--accept-clock', treasury, '--actor', 'ops', '--reason', 'another')
  expect(other).toMatchObject(refusedWith(exitCodes.conflict, 'clock_acceptance_refused'))

  const [actor, reason] = ['ops@globex.example', 'ticket 4711']
  const branches = [{ shard: treasury, state: 'committed', accepted: { actor, reason } }]
  expect(await fleet.holdfast('txn', transactionId)).toMatchObject({ document: { branches } })
  // Its home closes the time of the decision when that has come; whose word it was is told now.
  const parts = expect.arrayContaining([
    expect.objectContaining({ shard: treasury, accepted: { actor, reason, clockBefore: text } }),
  ]) as unknown
  const links = expect.arrayContaining([expect.objectContaining({ link: 'order', facts: { parts } })]) as unknown
  expect(await fleet.holdfast('prove', transactionId)).toMatchObject({ document: { links } })

  const { document } = await fleet.holdfast('doctor')
  const detail = expect.stringMatching(
    new RegExp(`^ops@globex.example let the clock of ${treasury} pass ${transactionId}, from .* to .*: ticket 4711$`),
  ) as string
  expect(document).toContainEqual({ what: 'clock', status: 'warning', detail })
})
