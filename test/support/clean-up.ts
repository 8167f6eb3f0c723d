/**
 * Cleans up whatever came of a run. Where both fail, it is told why the run did, which may well be why it could not be cleaned
 * up behind it; the other failure is told beside it.
 */
export async function thenCleanUp<T>(run: () => Promise<T>, cleanUp: () => Promise<void>): Promise<T> {
  let done: T
  try {
    done = await run()
  } catch (failure) {
    await cleanUp().catch((left: unknown) => {
      throw new AggregateError(
        [failure, left],
        `${messageOf(failure)}; and it was not cleaned up: ${messageOf(left)}`,
        {
          cause: failure,
        },
      )
    })
    throw failure
  }
  await cleanUp()
  return done
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error))
