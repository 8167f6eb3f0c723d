import type { HoldfastError } from 'holdfast'
import { readRun } from '../payledger.ts'
import { april } from '../seed.ts'
import { recordedRefusals } from './morning.ts'
import type { Stage } from './stage.ts'
import type { Telling } from './story.ts'
import { listOf, managerOf } from './words.ts'

const payroll = 'eu-west/payroll'

/** Somebody wants the EU payroll promoted in us-east. */
export async function refuseFailover(stage: Stage, tell: Telling): Promise<void> {
  const { west } = stage
  const epochBefore = (await west.status()).shards.find(({ shard }) => shard === payroll)?.epoch
  const error = await tell.refused('residency_denied', `${payroll} is not promoted in us-east`, () =>
    west.failover({ shard: payroll, to: 'us-east' }),
  )
  const recorded = await recordedRefusals(stage)
  const after = (await west.status()).shards.find(({ shard }) => shard === payroll)
  tell.check('the refusal is recorded with its reasons', sameReasons(recorded.at(-1)?.reasons, error))
  tell.check('nothing was touched', after?.epoch === epochBefore && after?.state === 'open')
  tell.say(`Promoting ${payroll} into us-east is refused and recorded: ${error.message}.`)

  const { options, promoted } = await west.failover({ shard: payroll, whatIf: true })
  tell.check('asking promotes nobody', promoted === null)
  const legal = options.legal.map(({ region }) => region)
  tell.check('eu-central is legal', legal.includes('eu-central'))
  tell.check('us-east is not', !legal.includes('us-east') && options.refused.some(({ region }) => region === 'us-east'))
  tell.say(
    `What would be legal: ${listOf(legal)}. What would not: ${listOf(options.refused.map(({ region }) => region))}.`,
  )
}

/** A payroll row of an EU tenant, sent to the shard in the US, which has a table for it. */
export async function refuseMisplacedWrite({ west }: Stage, tell: Telling): Promise<void> {
  const { tenant } = april
  const misplaced = 'apr-2026-misplaced'
  const error = await tell.refused('placement_denied', 'a payroll row of an EU tenant is not written in the US', () =>
    west.transact({ tenant, action: 'payroll.draft', subject: misplaced, actor: managerOf(tenant) }, (tx) =>
      tx.query('treasury', `insert into payroll_runs (tenant, id, status, total_cents) values ($1, $2, 'draft', 1)`, [
        tenant,
        misplaced,
      ]),
    ),
  )
  const { run } = await readRun(west, { tenant, run: misplaced, level: 'primary' })
  tell.check('nothing of it was written', run === null)
  tell.say(`A payroll row of ${tenant} sent to us-east/treasury is refused where the data is: ${error.message}.`)
}

function sameReasons(recorded: readonly string[] | undefined, error: HoldfastError): boolean {
  return (
    recorded !== undefined &&
    recorded.length > 0 &&
    JSON.stringify(recorded) === JSON.stringify(error.detail['reasons'])
  )
}
