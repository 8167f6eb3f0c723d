import { parseArgs } from 'node:util'
import type { DayResult } from './demo/day.ts'
import { playDay } from './demo/day.ts'
import { displayOn } from './demo/display.ts'
import { leftBehind } from './demo/leftovers.ts'
import type { Stage } from './demo/stage.ts'
import { openStage } from './demo/stage.ts'
import { Story, StoryBroken } from './demo/story.ts'

/**
 * The production day of PayLedger, played for real: PostgreSQL servers in three regions, an approval, a bad day, and the
 * proof of the approval before and after it. Everything is made in a fresh folder and removed at the end.
 */
const usage = `npm run demo -- [options]

  --json   one document on stdout, the narration on stderr: npm run --silent demo -- --json
  --help   this

Ends with 0 when every check held, 1 when one did not, 2 for a call that makes no sense, 130 when broken off; Ctrl-C
stops the servers in order.
`

async function main(): Promise<number> {
  const asked = read()
  if (asked === undefined) return 2
  if (asked.help) {
    process.stdout.write(usage)
    return 0
  }
  const started = performance.now()
  const interrupted = new AbortController()
  // A second one changes nothing: servers that are not stopped in order would stay behind.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      process.stderr.write('\nStopping; servers that are being started are stopped once they run.\n')
      interrupted.abort()
    })
  }

  const story = new Story(displayOn(asked.json ? process.stderr : process.stdout), interrupted.signal)
  const result = await play(story, interrupted.signal)
  const ok = story.ok && result !== undefined
  const durationMs = Math.round(performance.now() - started)
  if (asked.json)
    process.stdout.write(`${JSON.stringify({ ok, durationMs, steps: story.steps, ...result }, null, 2)}\n`)
  else process.stdout.write(`\n${verdict(story, interrupted.signal.aborted)} in ${(durationMs / 1000).toFixed(1)} s\n`)
  if (interrupted.signal.aborted) return 130
  return ok ? 0 : 1
}

function read(): { json: boolean; help: boolean } | undefined {
  try {
    const no = { type: 'boolean', default: false } as const
    return parseArgs({ options: { json: no, help: no } }).values
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n--help tells what there is\n`)
    return undefined
  }
}

/** The day from the first server to the last; the result when it was played to its end. */
async function play(story: Story, interrupted: AbortSignal): Promise<DayResult | undefined> {
  let stage: Stage | undefined
  try {
    stage = await story.step('start', 'Six servers in three regions start', (tell) =>
      openStage((text) => tell.progress(text)),
    )
    const day = playDay(story, stage)
    const stopped = whenAborted(interrupted, stage)
    return await Promise.race([day, stopped])
  } catch (error) {
    if (error instanceof StoryBroken) return undefined
    throw error
  } finally {
    if (stage !== undefined) await stop(story, stage)
  }
}

async function stop(story: Story, stage: Stage): Promise<void> {
  await story.last('stop', 'Everything stops', async (tell) => {
    await stage.close()
    const left = await leftBehind(stage.root)
    tell.check('nothing is left running and no file is left', left.length === 0)
    tell.say(left.length === 0 ? 'No process and no file is left.' : `Left behind: ${left.join(', ')}.`)
  })
}

/** An interrupted day does not wait for the step that it is in: closing the fleet ends it. */
function whenAborted(signal: AbortSignal, stage: Stage): Promise<undefined> {
  return new Promise((resolve) => {
    signal.addEventListener('abort', () => void stage.close().then(() => resolve(undefined)), { once: true })
  })
}

function verdict(story: Story, interrupted: boolean): string {
  const checks = story.steps.flatMap((step) => step.checks)
  const held = checks.filter((check) => check.held).length
  const end = interrupted ? 'The day was interrupted' : story.ok ? 'The day holds' : 'The day does not hold'
  return `${end}: ${story.steps.length} steps, ${held} of ${checks.length} checks held,`
}

process.exitCode = await main()
