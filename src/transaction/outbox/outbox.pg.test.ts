import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { FreshDatabase } from '../../../test/support/database.ts'
import { freshDatabase } from '../../../test/support/database.ts'
import { eventually } from '../../../test/support/eventually.ts'
import type { WebhookReceiver } from '../../../test/support/webhook-receiver.ts'
import { receiveWebhooks } from '../../../test/support/webhook-receiver.ts'
import { systemClock } from '../../base/clock.ts'
import { silentMetrics } from '../../base/metrics.ts'
import { newRandomUuid, newTimeOrderedUuid } from '../../base/random.ts'
import type { StepName } from '../../base/step.ts'
import { noStep } from '../../base/step.ts'
import type { ShardName } from '../../directory/topology.ts'
import { Connection } from '../../postgres/connection.ts'
import { DeliveryJournal, readDeliveries } from './delivery-journal.ts'
import type { DispatcherOptions } from './outbox.ts'
import { createDispatcher } from './outbox.ts'

const shard = 'eu-west/payroll' as ShardName
const cadence = { pollMs: 5, electionMs: 5, answerWithinMs: 2_000, silentForMsMax: 15_000 }

let database: FreshDatabase
let admin: Connection
let receiver: WebhookReceiver
let folder: string
let journal: DeliveryJournal

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hf-outbox-'))
  journal = await DeliveryJournal.open(join(folder, 'journal.jsonl'))
  receiver = await receiveWebhooks()
  await found()
})

afterEach(async () => {
  await journal.close()
  await receiver.close()
  await abandon()
  await rm(folder, { recursive: true })
})

/** A database with an empty history; after `abandon`, what a restore leaves in its place. */
async function found(): Promise<void> {
  database = await freshDatabase()
  admin = await Connection.connect(database.target(), 5_000)
  await admin.script(`call holdfast.found_shard('test', '${shard}', 'local', gen_random_uuid(), 500)`)
  await admin.script(`call holdfast.open_shard(1)`)
}

async function abandon(): Promise<void> {
  admin.release()
  await database.drop()
}

interface Emitted {
  readonly eventId: string
  readonly transactionId: string
  readonly commitTimestamp: bigint
  readonly payload?: string
}

function emitted(commitTimestamp: bigint, payload = '{"run":"apr-2026"}'): Emitted {
  return { eventId: newRandomUuid(), transactionId: newTimeOrderedUuid(), commitTimestamp, payload }
}

/** As a failover does to a dispatcher, or a server to one that was cut off. */
const endSessions = () =>
  admin.query(
    `select pg_terminate_backend(pid) from pg_stat_activity
     where datname = current_database() and usename = 'holdfast_gateway'`,
  )

/** Holds a dispatcher at a step, once, as one that is stopped. */
function stoppingAt(step: StepName) {
  let reach = () => {}
  let wake = () => {}
  const reached = new Promise<void>((resolve) => (reach = resolve))
  const woken = new Promise<void>((resolve) => (wake = resolve))
  const onStep = (at: StepName) => {
    if (at !== step) return Promise.resolve()
    reach()
    return woken
  }
  return { onStep, reached, wake: () => wake() }
}

/** A committed transaction with one event, as a stamp leaves it. */
async function commit(event: Emitted): Promise<void> {
  await admin.flight([
    { text: 'begin' },
    {
      text: `insert into holdfast.commit_log (transaction_id, commit_timestamp, xid, tenant, action, subject, actor,
               placements, epoch, participants)
             values ($1, $2, pg_current_xact_id(), 'globex-eu', 'payroll.approve', 'apr-2026', 'test', '{}', 1, '{}')`,
      values: [event.transactionId, event.commitTimestamp],
    },
    {
      text: `insert into holdfast.outbox (event_id, transaction_id, ordinal, tenant, name, payload)
             values ($1, $2, 1, 'globex-eu', 'payroll.approved', $3)`,
      values: [event.eventId, event.transactionId, event.payload],
    },
    { text: 'commit' },
  ])
}

const close = (timestamp: bigint) => admin.query('select holdfast.publish_closed($1)', [timestamp])

/** Runs a dispatcher while `use` does its work, then ends it. */
async function dispatching(options: Partial<DispatcherOptions>, use: () => Promise<void>): Promise<void> {
  const stop = new AbortController()
  const run = start(options).run(stop.signal)
  try {
    await Promise.race([use(), run.then(() => Promise.reject(new Error('the dispatcher ended by itself')))])
  } finally {
    stop.abort()
    await run.catch(() => undefined)
  }
}

function start(options: Partial<DispatcherOptions>) {
  return createDispatcher({
    shard,
    target: () => database.target('holdfast_gateway'),
    journal,
    webhookUrl: receiver.url,
    barrier: () => Promise.resolve(),
    clock: systemClock,
    metrics: silentMetrics,
    onStep: noStep,
    cadence,
    ...options,
  })
}

/** Runs a dispatcher that dies at a step, as by kill -9: what is not in the file is gone. */
async function dyingAt(step: StepName): Promise<void> {
  const killed = new Error(`killed at ${step}`)
  const onStep = (reached: StepName) => (reached === step ? Promise.reject(killed) : Promise.resolve())
  await expect(start({ onStep }).run(new AbortController().signal)).rejects.toBe(killed)
  await journal.close()
  journal = await DeliveryJournal.open(join(folder, 'journal.jsonl'))
}

const delivered = (...events: Emitted[]) =>
  eventually(() => events.every((event) => journal.isDelivered(event.eventId)))

async function recordedStates(): Promise<string[]> {
  const states: string[] = []
  for await (const { state } of readDeliveries(join(folder, 'journal.jsonl'))) states.push(state)
  return states
}

describe('delivering', () => {
  test('an event arrives once, with its id as key and its payload as PostgreSQL has it', async () => {
    const event = emitted(10n, '{"cents": 12345678901234567890}')
    await commit(event)
    await dispatching({}, () => delivered(event))
    expect(receiver.keys()).toEqual([event.eventId])
    expect(receiver.bodies()[0]).toBe(
      `{"id":"${event.eventId}","name":"payroll.approved","tenant":"globex-eu","transactionId":"${event.transactionId}",` +
        `"commitTimestamp":"1970-01-01T00:00:00.000Z+000a","payload":{"cents": 12345678901234567890}}`,
    )
  })

  test('an address that no request is sent to is not kept with its password', async () => {
    const event = emitted(10n)
    await commit(event)
    const webhookUrl = receiver.url.replace('http://', 'http://payroll:secret@')
    await dispatching({ webhookUrl }, () => eventually(async () => (await recordedStates()).includes('failed')))
    expect(await readFile(join(folder, 'journal.jsonl'), 'utf8')).not.toMatch(/secret|payroll:/)
  })

  test('events leave in commit order, over pages', async () => {
    const events = Array.from({ length: 450 }, (_, index) => emitted(BigInt(1_000 - index)))
    for (const event of events) await commit(event)
    await dispatching({}, () => delivered(...events))
    expect(receiver.keys()).toEqual(events.toReversed().map((event) => event.eventId))
  })

  test('an event that is refused is sent again, and does not hold up the others', async () => {
    const [refused, other] = [emitted(10n), emitted(11n)]
    receiver.answer((key, times) => (key === refused.eventId && times <= 2 ? 500 : 204))
    await commit(refused)
    await commit(other)
    await dispatching({}, () => delivered(refused, other))
    expect(receiver.keys()).toEqual([refused.eventId, other.eventId, refused.eventId, refused.eventId])
  })

  test('what a receiver refuses again and again fills no disk: the journal has it once', async () => {
    const event = emitted(10n)
    receiver.answer((_, times) => (times <= 4 ? 500 : 204))
    await commit(event)
    await dispatching({}, () => delivered(event))
    expect(receiver.keys()).toHaveLength(5)
    expect(await recordedStates()).toEqual(['sending', 'failed', 'delivered'])
  })

  test('a redirect is a refusal: events go where the configuration says', async () => {
    const event = emitted(10n)
    receiver.answer((_, times) => (times === 1 ? 307 : 200))
    await commit(event)
    await dispatching({}, () => delivered(event))
    expect(receiver.keys()).toEqual([event.eventId, event.eventId])
  })

  test('a receiver that is away is waited for', async () => {
    const event = emitted(10n)
    await commit(event)
    const { url } = receiver
    await receiver.close()
    await dispatching({ webhookUrl: url }, async () => {
      await eventually(async () => (await recordedStates()).includes('failed'))
      receiver = await receiveWebhooks(new URL(url).port)
      await delivered(event)
    })
    expect(receiver.keys()).toEqual([event.eventId])
  })

  test('E3: a dispatcher that takes over knows what the one before it has delivered', async () => {
    const [first, second] = [emitted(10n), emitted(11n)]
    await using ofSecond = await DeliveryJournal.open(join(folder, 'journal.jsonl'))
    await commit(first)
    await dispatching({}, () => delivered(first))
    await commit(second)
    await dispatching({ journal: ofSecond }, () => eventually(() => ofSecond.isDelivered(second.eventId)))
    expect(receiver.keys()).toEqual([first.eventId, second.eventId])
  })

  test('E3: a dispatcher that was stopped sends nothing again that another has delivered meanwhile', async () => {
    const events = [emitted(10n), emitted(11n), emitted(12n)]
    for (const event of events) await commit(event)
    await using ofOther = await DeliveryJournal.open(join(folder, 'journal.jsonl'))
    const { onStep, reached, wake } = stoppingAt('outbox delivery journalled')
    const last = emitted(20n)
    await dispatching({ onStep }, async () => {
      await reached
      await endSessions()
      await dispatching({ journal: ofOther }, () =>
        eventually(() => events.every(({ eventId }) => ofOther.isDelivered(eventId))),
      )
      await commit(last)
      wake()
      await delivered(last)
    })
    expect(receiver.keys()).toEqual([...events, last].map(({ eventId }) => eventId))
  })

  test('E3: the journal is asked before each event, and not only by who is newly elected', async () => {
    const events = [emitted(10n), emitted(11n), emitted(12n)]
    for (const event of events) await commit(event)
    await using ofOther = await DeliveryJournal.open(join(folder, 'journal.jsonl'))
    const { onStep, reached, wake } = stoppingAt('outbox delivery journalled')
    const [first, second, third] = events.map(({ eventId }) => eventId)
    await dispatching({ onStep }, async () => {
      await reached
      const about = { transactionId: '', commitTimestamp: '11', tenant: 'globex-eu', name: 'payroll.approved' }
      await ofOther.record({ ...about, eventId: second ?? '', state: 'delivered', at: 0, reason: null })
      wake()
      await delivered(...events)
    })
    expect(receiver.keys()).toEqual([first, third])
  })

  test('E3: a dispatcher that was stopped while the shard got another primary sends nothing more', async () => {
    const events = [emitted(10n), emitted(11n)]
    for (const event of events) await commit(event)
    const { onStep, reached, wake } = stoppingAt('outbox delivery journalled')
    let asked = 0
    let moved = false
    const target = () => {
      asked += 1
      const here = database.target('holdfast_gateway')
      return moved ? { ...here, port: here.port + 1 } : here
    }
    await dispatching({ onStep, target }, async () => {
      await reached
      moved = true
      const askedBefore = asked
      wake()
      await eventually(() => asked > askedBefore + 3)
      expect(receiver.keys()).toHaveLength(1)
      moved = false
      await delivered(...events)
    })
    expect(receiver.keys()).toEqual(events.map(({ eventId }) => eventId))
  })

  test('E4: a dispatcher that is stopped does not keep the place for ever', async () => {
    const events = [emitted(10n), emitted(11n)]
    for (const event of events) await commit(event)
    await using ofOther = await DeliveryJournal.open(join(folder, 'journal.jsonl'))
    const { onStep, reached, wake } = stoppingAt('outbox delivery journalled')
    await dispatching({ onStep, cadence: { ...cadence, silentForMsMax: 1_000 } }, async () => {
      await reached
      await dispatching({ journal: ofOther }, () =>
        eventually(() => events.every(({ eventId }) => ofOther.isDelivered(eventId))),
      )
      wake()
      await delivered(...events)
    })
    expect(receiver.keys()).toEqual(events.map(({ eventId }) => eventId))
  })

  test('of two dispatchers one is elected, and the other takes over when it ends', async () => {
    const [first, second] = [emitted(10n), emitted(11n)]
    await commit(first)
    await using ofOther = await DeliveryJournal.open(join(folder, 'journal.jsonl'))
    await dispatching({ journal: ofOther }, async () => {
      await dispatching({}, () => eventually(() => [journal, ofOther].some((each) => each.isDelivered(first.eventId))))
      await commit(second)
      await eventually(() => receiver.keys().includes(second.eventId))
    })
    expect(receiver.keys()).toEqual([first.eventId, second.eventId])
  })
})

describe('what is safe to act on', () => {
  test('E1: nothing leaves while no barrier passes', async () => {
    const event = emitted(10n)
    await commit(event)
    let asked = 0
    let passes = false
    const barrier = () => {
      asked += 1
      return passes ? Promise.resolve() : Promise.reject(new Error('followers are away'))
    }
    await dispatching({ barrier }, async () => {
      await eventually(() => asked > 3)
      expect(receiver.keys()).toEqual([])
      passes = true
      await delivered(event)
    })
  })

  test('E1: a barrier of another server than the one that was read does not count', async () => {
    const event = emitted(10n)
    await commit(event)
    let asked = 0
    let moved = false
    const target = () => {
      const here = database.target('holdfast_gateway')
      return moved ? { ...here, port: here.port + 1 } : here
    }
    const barrier = () => {
      asked += 1
      moved = true
      return Promise.resolve()
    }
    const stop = new AbortController()
    const run = start({ barrier, target }).run(stop.signal)
    await eventually(() => asked === 1)
    moved = false
    await eventually(() => asked === 2)
    stop.abort()
    await run
    expect(receiver.keys()).toEqual([])
  })

  test('E4: a transaction that becomes visible behind later ones is sent too', async () => {
    const [early, late] = [emitted(10n), emitted(20n)]
    await commit(late)
    await close(5n)
    await dispatching({}, async () => {
      await delivered(late)
      await commit(early)
      await delivered(early)
      await close(30n)
      const next = emitted(31n)
      await commit(next)
      await delivered(next)
    })
    expect(receiver.keys()).toHaveLength(3)
  })

  test('E5: a fenced shard sends nothing until it is open again, at its new epoch', async () => {
    const event = emitted(10n)
    await admin.query('select holdfast.fence(2)')
    await commit(event)
    let asked = 0
    const target = () => {
      asked += 1
      return database.target('holdfast_gateway')
    }
    await dispatching({ target }, async () => {
      await eventually(() => asked > 5)
      expect(receiver.keys()).toEqual([])
      await admin.script('call holdfast.open_shard(2)')
      await delivered(event)
    })
  })

  test('E5: a fence is noticed before the next event, not after those in hand', async () => {
    const events = [emitted(10n), emitted(11n)]
    for (const event of events) await commit(event)
    const { onStep, reached, wake } = stoppingAt('outbox delivery journalled')
    let asked = 0
    const target = () => {
      asked += 1
      return database.target('holdfast_gateway')
    }
    await dispatching({ onStep, target }, async () => {
      await reached
      await admin.query('select holdfast.fence(2)')
      const askedBefore = asked
      wake()
      await eventually(() => asked > askedBefore + 5)
      expect(receiver.keys()).toHaveLength(1)
      await admin.script('call holdfast.open_shard(2)')
      await delivered(...events)
    })
  })
})

describe('a bad day', () => {
  test('E2: a crash before the request left loses nothing', async () => {
    const event = emitted(10n)
    await commit(event)
    await dyingAt('outbox sending journalled')
    expect(receiver.keys()).toEqual([])
    await dispatching({}, () => delivered(event))
    expect(receiver.keys()).toEqual([event.eventId])
  })

  test('E2: a crash between answer and journal sends again, with the same key', async () => {
    const event = emitted(10n)
    await commit(event)
    await dyingAt('outbox event sent')
    await dispatching({}, () => delivered(event))
    expect(receiver.keys()).toEqual([event.eventId, event.eventId])
  })

  test('E2: a crash after the journal sends nothing again', async () => {
    const [first, second] = [emitted(10n), emitted(11n)]
    await commit(first)
    await dyingAt('outbox delivery journalled')
    await commit(second)
    await dispatching({}, () => delivered(second))
    expect(receiver.keys()).toEqual([first.eventId, second.eventId])
  })

  test('E3: after a cutover what was delivered is not sent again, and what was not is', async () => {
    const [kept, lost] = [emitted(10n), emitted(20n)]
    for (const event of [kept, lost]) await commit(event)
    await dispatching({}, () => delivered(kept, lost))
    await abandon()
    await found()
    const undelivered = emitted(15n)
    for (const event of [kept, undelivered]) await commit(event)
    await close(40n)
    await dispatching({}, () => delivered(undelivered))
    expect(receiver.keys()).toEqual([kept.eventId, lost.eventId, undelivered.eventId])
  })

  test('a lost connection is connected anew', async () => {
    const [first, second] = [emitted(10n), emitted(11n)]
    await commit(first)
    await dispatching({}, async () => {
      await delivered(first)
      await endSessions()
      await commit(second)
      await delivered(second)
    })
    expect(receiver.keys()).toEqual([first.eventId, second.eventId])
  })
})
