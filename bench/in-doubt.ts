import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { performance } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { atMost, type Figure, percentile } from './figure.ts'
import { abroad, region, type Stand, tenant } from './stand.ts'
import { insertEntry, insertHold, pause } from './work.ts'

/** How long a branch stays in doubt after a kill -9 of its coordinator: until nothing is prepared at the participant. */

const kills = 12
const steps = ['global prepare acknowledged', 'global reply'] as const
const settledWithinMs = 2_000
const giveUpMs = 30_000
const pollMs = 10

export async function inDoubtFigure({ dataDir, connect }: Stand, progress: (text: string) => void): Promise<Figure> {
  const participant = await connect(abroad)
  const settledMs: number[] = []
  for (let n = 0; n < kills; n++) {
    const step = steps[n % steps.length] ?? steps[0]
    progress(`coordinator killed at ${step}, ${n + 1} of ${kills}`)
    const gateway = await startGateway(dataDir, step)
    const ended = once(gateway.child, 'exit')
    // The answer is lost with the gateway.
    void commitThrough(gateway.url).catch(() => undefined)
    await ended
    settledMs.push(await untilSettled(() => participant.query('select from pg_prepared_xacts')))
  }
  return atMost('in doubt settled p99', percentile(settledMs, 0.99), 'ms after kill -9', settledWithinMs)
}

async function startGateway(dataDir: string, step: string): Promise<{ child: ChildProcess; url: string }> {
  const program = fileURLToPath(new URL('../dist/cli/cli.js', import.meta.url))
  const child = spawn(
    process.execPath,
    [program, 'gateway', '--data-dir', dataDir, '--region', region, '--port', '0'],
    { env: { ...process.env, HOLDFAST_CRASH_AT: step }, stdio: ['ignore', 'ignore', 'inherit', 'ipc'] },
  )
  const [message] = (await once(child, 'message')) as [{ readonly url: string }]
  return { child, url: message.url }
}

function commitThrough(url: string): Promise<Response> {
  const statements = [
    { domain: 'ledger', text: insertEntry, values: [tenant, 'account-0'] },
    { domain: 'cash', text: insertHold, values: [tenant] },
  ]
  return fetch(new URL('/v1/transactions', url), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ tenant, action: 'bench.global', subject: 'account-0', actor: 'bench', statements }),
  })
}

async function untilSettled(prepared: () => Promise<{ readonly rowCount: number | null }>): Promise<number> {
  const started = performance.now()
  while (performance.now() - started < giveUpMs) {
    if ((await prepared()).rowCount === 0) return performance.now() - started
    await pause(pollMs)
  }
  throw new Error(`a branch is still prepared ${giveUpMs} ms after its coordinator was killed`)
}
