import { errorTable } from '../../src/base/errors.ts'
import type { SetHistory } from '../sim/set.ts'
import { eventually } from '../support/eventually.ts'
import type { Client, Committed } from './client.ts'
import { NotAcknowledged } from './client.ts'
import { outcomeOf, Tellings } from './outcome.ts'
import { domains, tenant } from './stand.ts'
import type { Stage, Workload } from './workload.ts'

/** Elements are added to a set on each shard: most to both, in one transaction. Each add has an idempotency key. */
export function set({ sources }: Pick<Stage, 'sources'>): Workload<SetHistory> {
  const adds: {
    element: string
    sets: readonly (typeof domains)[number][]
    told: 'committed' | 'failed' | 'unknown'
  }[] = []
  const unresolved: { readonly element: string; readonly send: (at: Client) => Promise<Committed> }[] = []
  const tellings = new Tellings()
  let next = 0
  let cell = ''

  return {
    setUp: async (at) => {
      const about = { tenant, action: 'torture.empty', subject: 'sets', actor: 'torture' }
      const { transactionId } = await at.transact(
        about,
        domains.map((domain) => ({ domain, text: `delete from ${domain}_sets` })),
      )
      // Keys live longer than a cell.
      cell = transactionId
    },
    operate: async (client, at) => {
      const below = sources.of(`client ${client}`)
      const sets = [domains, domains, ['left'] as const, ['right'] as const][below(4)] ?? domains
      const element = `e${(next += 1)}`
      const about = { tenant, action: 'torture.add', subject: element, actor: `client-${client}` }
      const statements = sets.map((domain) => ({
        domain,
        // Without a key of its own, so that an add which happens twice is there twice.
        text: `insert into ${domain}_sets (tenant, element) values ($1, $2)`,
        values: [tenant, element],
        batch: true as const,
      }))
      const send = (to: Client) => to.transact({ ...about, idempotencyKey: `${cell} ${element}` }, statements)
      try {
        tellings.acknowledged((await send(at)).transactionId)
        adds.push({ element, sets, told: 'committed' })
        return 'ok'
      } catch (error) {
        tellings.notAcknowledged(error)
        const told = outcomeOf(error)
        adds.push({ element, sets, told })
        if (error instanceof NotAcknowledged && told === 'unknown') unresolved.push({ element, send })
        return told
      }
    },
    end: async (at) => {
      const asked = await tellings.ask(at)
      const again = new Map<string, 'committed' | 'failed' | 'unknown'>()
      for (const { element, send } of unresolved) {
        again.set(element, await sendAgain(() => send(at)))
      }
      const { rows } = await at.read(
        { tenant, level: 'snapshot' },
        domains.map((domain) => ({ domain, text: `select '${domain} ' || element as place from ${domain}_sets` })),
      )
      const last = rows.flat().map((row) => String(row['place']))
      const resolved = adds.map((one) => {
        const then = again.get(one.element)
        return then === undefined ? one : { ...one, again: then }
      })
      return { adds: resolved, last, tellings: asked }
    },
  }
}

/**
 * What the faults have left may refuse it for a while, and an answer may still be lost: it may be sent as often as it takes.
 * A refusal that says no later attempt can succeed is the last word.
 */
async function sendAgain(send: () => Promise<Committed>): Promise<'committed' | 'failed' | 'unknown'> {
  let told: 'committed' | 'failed' | 'unknown' = 'unknown'
  const isLastWord = (error: unknown) => {
    told = outcomeOf(error)
    return error instanceof NotAcknowledged && error.code !== undefined && errorTable[error.code].retry === 'never'
  }
  const isTold = () =>
    send().then(() => {
      told = 'committed'
      return true
    }, isLastWord)
  await eventually(isTold, 30_000).catch(() => undefined)
  return told
}
